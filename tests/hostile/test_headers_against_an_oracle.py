"""The header check agrees with an independent one, and what it accepts safetensors accepts, byte for byte."""

from __future__ import annotations

import ast
import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize, safe_open

from lorax.errors import BadFile
from lorax.weight_file import WeightFile, open_weight_file
from tests.hostile import oracle, random_files
from tests.hostile.makers import every_small_file
from tests.hostile.oracle import is_sound
from tests.hostile.random_files import random_file

FILES = 10_000


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("oracle") / "weights.safetensors"


def opened(content: bytes, path: Path) -> WeightFile | None:
    """Returns the file as the check lets it pass, None when it is refused."""
    path.unlink(missing_ok=True)  # some file systems write a file that is overwritten to the disk at once
    path.write_bytes(content)
    try:
        return open_weight_file(path)
    except BadFile:
        return None


def check(content: bytes, path: Path) -> bool:
    """Compares all three opinions on a file; returns whether it is sound."""
    file = opened(content, path)
    assert (file is not None) == is_sound(content), content
    if file is None:
        return False
    official = {name: (each["dtype"], tuple(each["shape"]), bytes(each["data"])) for name, each in deserialize(content)}
    ours = {name: (each.dtype, each.shape, content[each.begin : each.end]) for name, each in file.tensors.items()}
    assert ours == official, content
    with safe_open(path, "numpy") as again:
        assert (again.metadata() or {}) == file.metadata, content
    return True


def random_contents(count: int) -> Iterator[bytes]:
    for seed in range(count):
        yield random_file(Random(seed))


def test_ten_thousand_random_files_get_the_same_verdict_three_times(path: Path) -> None:
    verdicts = Counter(check(content, path) for content in random_contents(FILES))

    assert min(verdicts[True], verdicts[False]) > FILES // 4


@settings(max_examples=300)
@given(random=st.randoms(use_true_random=False))
def test_the_check_and_an_independent_one_agree(random: Random, path: Path) -> None:
    check(random_file(random), path)


@settings(max_examples=300)
@given(content=st.binary(max_size=200))
def test_no_bytes_can_do_more_than_be_refused(content: bytes, path: Path) -> None:
    check(content, path)


def test_the_oracle_refuses_the_hostile_files_too() -> None:
    pickle_names = {hostile.about for hostile in every_small_file() if "sound file called" in hostile.about}
    # Escapes in the names of fields are legal JSON that nobody writes.
    lenient = {hostile.about for hostile in every_small_file() if is_sound(hostile.content)} - pickle_names

    assert lenient == {"a field behind an escape"}


def test_the_random_files_would_show_a_check_that_is_too_lenient() -> None:
    """The official check stands for a wrong one: it lets pass what the format's text forbids."""
    seen = 0
    for content in random_contents(1000):
        with contextlib.suppress(SafetensorError):
            deserialize(content)
            seen += not is_sound(content)

    assert seen > 20


@pytest.mark.parametrize("module", [oracle, random_files])
def test_the_oracle_shares_no_line_with_the_library(module: object) -> None:
    tree = ast.parse(Path(str(module.__file__)).read_text())  # type: ignore[attr-defined]
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}

    assert not {name for name in imported if name and name.partition(".")[0] in {"lorax", "safetensors"}}
