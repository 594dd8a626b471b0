"""What every dialect keeps: it knows its own files and no other's, and loses nothing on the way out and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lorax.adapter import Adapter, LowRank, Site
from lorax.algorithms import ALGORITHMS
from lorax.base_model import BaseModel
from lorax.dialect import Dialect
from lorax.dialects import DIALECTS
from lorax.errors import Refused
from lorax.identify import alias_table
from lorax.read import AdapterFiles, read_adapter
from lorax.weight_file import open_weight_file, write_weight_file
from lorax.write import write_adapter
from tests.stand_ins.adapter_files import random_adapter, same_updates, small_base

GOLDEN = Path(__file__).parents[1] / "golden" / "dialects"
OLD = small_base("small-v1", labels=["Small v1", "examples/small-v1"], file_hashes=["1" * 64])
NEW = small_base("small-v2", labels=["Small v2", "examples/small-v2"], file_hashes=["2" * 64])
PRECISIONS = [torch.float16, torch.bfloat16, torch.float32]
every_dialect = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda dialect: dialect.name)


def golden(dialect: Dialect) -> dict[str, list[str]]:
    """Gives lists of tensor names as tools wrote them, by tool."""
    found: dict[str, list[str]] = json.loads((GOLDEN / f"{dialect.name}.json").read_text())
    return found


def read_back(paths: Sequence[Path], candidates: Sequence[BaseModel]) -> dict[Site, LowRank]:
    """Gives the updates of all weight files among the paths, each read with the configuration beside it."""
    found: dict[Site, LowRank] = {}
    for path in paths:
        if path.suffix == ".safetensors":
            found |= read_one(path, candidates).updates
    return found


def read_one(path: Path, candidates: Sequence[BaseModel]) -> Adapter:
    config = path.with_name("adapter_config.json")
    return read_adapter(AdapterFiles(path, config if config in path.parent.iterdir() else None), candidates=candidates)


def write(adapter: Adapter, folder: Path, dialect: Dialect, base: BaseModel = NEW) -> tuple[Path, ...]:
    return write_adapter(adapter, folder, dialect=dialect.name, base=base, stem="bold", metadata={})


def tensor_names(paths: Sequence[Path]) -> list[str]:
    return [name for path in paths if path.suffix == ".safetensors" for name in open_weight_file(path).tensors]


@every_dialect
def test_its_recorded_names_are_recognised_by_it_and_by_no_other(dialect: Dialect) -> None:
    recorded = golden(dialect)

    assert recorded
    for names in recorded.values():
        assert [name for name, other in DIALECTS.items() if other.recognise(names)] == [dialect.name]


@every_dialect
def test_its_recorded_names_are_modules_of_a_base_with_roles_of_an_algorithm(dialect: Dialect) -> None:
    known = frozenset().union(*(algorithm.required | algorithm.optional for algorithm in ALGORITHMS.values()))
    aliases = alias_table(OLD, dialect)

    for about, names in golden(dialect).items():
        for name in names:
            spelling, role = dialect.split(name)
            assert role in known or about.startswith("LyCORIS")
            assert spelling in aliases, name


@every_dialect
def test_what_it_writes_is_recognised_by_it_and_by_no_other(dialect: Dialect, tmp_path: Path) -> None:
    names = tensor_names(write(random_adapter(OLD), tmp_path, dialect))

    assert [name for name, other in DIALECTS.items() if other.recognise(names)] == [dialect.name]
    assert f"{len(names)} of {len(names)}" in dialect.recognise(names)


@every_dialect
@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_writing_and_reading_gives_the_same_updates(dialect: Dialect, precision: torch.dtype, tmp_path: Path) -> None:
    made = random_adapter(OLD, dtype=precision, scales=(0.5, 2.0))

    again = read_back(write(made, tmp_path, dialect), [NEW])

    assert again.keys() == made.updates.keys()
    for site, update in made.updates.items():
        assert torch.equal(again[site].up, update.up)
        assert torch.equal(again[site].down, update.down)
        assert again[site].kernel == update.kernel
        assert again[site].scale == update.scale


@every_dialect
@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@pytest.mark.parametrize("scale", [1 / 3, 0.7, -1.37, 11.0])
def test_a_scale_of_any_size_keeps_its_strength(
    dialect: Dialect, precision: torch.dtype, scale: float, tmp_path: Path
) -> None:
    made = random_adapter(OLD, dtype=precision, scales=(scale,), match="mid_block")

    again = read_back(write(made, tmp_path, dialect), [NEW])

    error = (
        sum(float((again[site].dense() - update.dense()).norm()) ** 2 for site, update in made.updates.items()) ** 0.5
    )
    assert error <= {torch.float16: 1e-3, torch.bfloat16: 5e-3}.get(precision, 1e-6) * made.norm()


@every_dialect
def test_what_was_read_is_written_byte_for_byte_alike(dialect: Dialect, tmp_path: Path) -> None:
    for component in ("unet", "text_encoder"):
        paths = write(random_adapter(OLD, dtype=torch.float16, match=component), tmp_path / f"1 {component}", dialect)
        again = write(read_one(paths[0], [NEW]), tmp_path / f"2 {component}", dialect)

        assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]


@every_dialect
def test_any_dialect_can_be_written_in_any_other(dialect: Dialect, tmp_path: Path) -> None:
    made = random_adapter(OLD)
    first = read_back(write(made, tmp_path / "first", dialect), [NEW])

    for other in DIALECTS.values():
        paths = write(replace(made, updates=first), tmp_path / other.name, other)
        assert same_updates(read_back(paths, [NEW]), made.updates, tolerance=1e-5)


@every_dialect
@pytest.mark.parametrize("component", ["unet", "text_encoder"])
def test_the_new_base_is_named_and_found_among_equals(dialect: Dialect, component: str, tmp_path: Path) -> None:
    stale = {
        "ss_new_sd_model_hash": "1" * 64,
        "ss_sd_model_name": "small-v1",
        "modelspec.architecture": "small-v1/lora",
    }
    made = replace(random_adapter(OLD, match=component), metadata=stale | {"ss_base_model_version": "small_v1"})

    paths = write(made, tmp_path, dialect)

    assert read_one(paths[0], [OLD, NEW]).base.name == "small-v2"


@every_dialect
def test_every_tensor_is_accounted_for(dialect: Dialect, tmp_path: Path) -> None:
    path = write(random_adapter(OLD, match="mid_block"), tmp_path, dialect)[0]
    file = open_weight_file(path)
    tensors = {name: file.read(name) for name in file.tensors}
    stray = next(name for name in tensors if dialect.split(name)[1] == "up").replace("mid_block", "mud_block")

    for changed, reason in (
        ({name: tensor for name, tensor in tensors.items() if dialect.split(name)[1] != "up"}, "incomplete-pair"),
        ({**tensors, stray: torch.ones(2, 2)}, "incomplete-pair"),
        ({**tensors, f"{stray}.nobody.knows": torch.ones(2, 2)}, "unknown-tensor"),
    ):
        write_weight_file(path, changed, metadata=file.metadata)
        with pytest.raises(Refused) as raised:
            read_one(path, [NEW])
        assert raised.value.reason == reason


@every_dialect
def test_nan_is_never_written(dialect: Dialect, tmp_path: Path) -> None:
    made = random_adapter(OLD, match="mid_block")
    site = next(iter(made.updates))
    spoilt = replace(made.updates[site], up=made.updates[site].up * torch.nan)

    with pytest.raises(Refused) as raised:
        write(replace(made, updates={**made.updates, site: spoilt}), tmp_path / "out", dialect)

    assert raised.value.reason == "non-finite"
    assert not (tmp_path / "out").exists()


@every_dialect
def test_it_says_what_it_is(dialect: Dialect) -> None:
    assert dialect.summary
    assert dialect.recognise([]) == ""
    assert dialect.recognise(["conv_in.weight", "layers.0.bias"]) == ""
