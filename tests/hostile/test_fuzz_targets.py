"""What the fuzzer checks holds for its seeds and for thousands of changes of them. No fuzzer is needed for that."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from fuzz import checks
from fuzz.checks import FindingError, check_weight_file, seeds
from fuzz.mutations import mutated
from lorax.errors import BadFile
from lorax.weight_file import WeightFile, open_weight_file
from tests.hostile.makers import entry, of

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="the target keeps its files in Linux' memory")
CHANGES = 3000


def any_change(part: bytes) -> bytes:
    """Stands for the fuzzer's blind changes."""
    return part[: len(part) // 2] + b"\0" + part[len(part) // 2 + 1 :]


def test_the_seeds_meet_what_the_target_checks() -> None:
    verdicts = Counter(check_weight_file(content) for content in seeds())

    assert min(verdicts[True], verdicts[False]) >= 50


def test_changed_seeds_meet_what_the_target_checks() -> None:
    random, contents = Random(0), list(seeds())
    changes = [mutated(random.choice(contents), random, any_change=any_change) for _ in range(CHANGES)]

    verdicts = Counter(map(check_weight_file, changes))

    assert min(verdicts[True], verdicts[False]) > CHANGES // 10
    assert len(set(changes)) > CHANGES // 2


def lenient(path: Path) -> WeightFile:
    """Stands for a header check without a rule: a hole in front of a tensor passes."""
    content = path.read_bytes()
    path.write_bytes(content.replace(b"[4, 8]", b"[0, 4]")[:-4])
    try:
        return open_weight_file(path)
    finally:
        path.write_bytes(content)


def greedy(path: Path) -> WeightFile:
    """Stands for a header check that takes memory without measure."""
    held = bytes(10**6)
    raise BadFile("bad-span", f"{len(held)} bytes", where=str(path))


def mumbling(path: Path) -> WeightFile:
    """Stands for a header check whose refusals hold a terminal's escapes."""
    problem = BadFile("bad-span", "", where=str(path))
    problem.message = "\x1b[2J"
    raise problem


@pytest.mark.parametrize("wrong", [lenient, greedy, mumbling])
def test_the_target_sees_a_wrong_header_check(wrong: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "open_weight_file", wrong)
    monkeypatch.setattr(checks, "_EVERY", 1)

    with pytest.raises(FindingError):
        check_weight_file(of({"a": entry(4, 8)}, 8))


@pytest.mark.skipif(importlib.util.find_spec("atheris") is not None, reason="atheris is there")
def test_without_atheris_the_target_says_what_to_install(repository: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "fuzz.weight_file", "corpus"],
        cwd=repository,
        capture_output=True,
        check=False,
        text=True,
    )

    assert ran.returncode == 1
    assert "pip install" in ran.stderr
    assert "Traceback" not in ran.stderr
