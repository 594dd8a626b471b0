from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lorax.adapter import Adapter
from lorax.convert import Conversion, convert_adapters
from lorax.convert_files import ConvertedFiles, convert_files
from lorax.errors import Stop
from lorax.examine import AdapterFiles
from lorax.method import Term
from lorax.operators import Dense, Identity, Operator
from lorax.plan import Plan, PlanHead, PlannedSite
from lorax.read import read_adapter
from lorax.weight_file import open_weight_file, sha256_file, write_weight_file
from lorax.write import write_adapter
from tests.stand_ins.adapter_files import kohya_tensors, random_adapter, small_base

BASE = small_base()
TARGET = replace(BASE, name="new")


def plan_of(operator: Callable[[int], Operator]) -> Plan:
    planned = tuple(
        PlannedSite(site, site, Term(operator(shape.out_features), operator(shape.columns)))
        for site, shape in BASE.sites.items()
    )
    return Plan(PlanHead("0" * 64, "toy", {}, BASE, TARGET), planned)


def turned(width: int) -> Operator:
    matrix = torch.randn(width, width, generator=torch.Generator().manual_seed(width))
    return Dense(torch.linalg.qr(matrix)[0])


COPY = plan_of(lambda _width: Identity())


def write_halves(path: Path, adapter: Adapter) -> AdapterFiles:
    write_weight_file(path, {name: tensor.half() for name, tensor in kohya_tensors(adapter).items()})
    return AdapterFiles(path, None, path.name)


@pytest.fixture
def sources(tmp_path: Path) -> list[AdapterFiles]:
    (tmp_path / "in").mkdir()
    return [
        write_halves(tmp_path / "in" / f"{seed}.safetensors", random_adapter(BASE, seed=seed, ranks=(2, seed + 1)))
        for seed in range(5)
    ]


def convert(plan: Plan, sources: list[AdapterFiles], folder: Path, group_bytes: int = 2**20) -> list[ConvertedFiles]:
    found = convert_files(plan, sources, folder=lambda _source: folder, group_bytes=group_bytes)
    return list(found)


def test_copied_halves_come_out_bit_for_bit(sources: list[AdapterFiles], tmp_path: Path) -> None:
    for source, found in zip(sources, convert(COPY, sources, tmp_path / "out"), strict=True):
        assert found.problem is None
        before, after = open_weight_file(source.weights), open_weight_file(found.written[0].path)
        factors = [name for name in before.tensors if not name.endswith(".alpha")]
        assert factors
        for name in factors:
            assert torch.equal(before.read(name), after.read(name))


@pytest.mark.parametrize("group_bytes", [1, 2**30])
def test_streamed_files_are_those_that_reading_converting_and_writing_one_by_one_gives(
    group_bytes: int, sources: list[AdapterFiles], tmp_path: Path
) -> None:
    plan = plan_of(turned)

    for source, found in zip(sources, convert(plan, sources, tmp_path / "out", group_bytes), strict=True):
        usual = read_adapter(source, candidates=[BASE])
        (result,) = convert_adapters(plan, [usual])
        assert isinstance(result, Conversion)
        [path] = write_adapter(result.adapter, tmp_path, dialect="kohya", base=TARGET, stem="one", metadata={})
        one, streamed = (
            read_adapter(AdapterFiles(place), candidates=[TARGET]) for place in (path, found.written[0].path)
        )
        assert streamed.dtype == torch.float16
        assert one.scales() == streamed.scales()
        for site, update in one.updates.items():
            # Products of several adapters at once may round otherwise, by one step of half precision.
            assert torch.allclose(update.dense(), streamed.updates[site].dense(), rtol=1e-2, atol=2e-3)
        assert [site.norm for site in found.sites] == pytest.approx([site.norm for site in result.sites], rel=1e-5)
        assert [site.kept_norm for site in found.sites] == pytest.approx(
            [site.kept_norm for site in result.sites], rel=1e-4
        )


def test_the_hashes_and_sizes_that_are_told_are_those_on_the_disk(sources: list[AdapterFiles], tmp_path: Path) -> None:
    for found in convert(COPY, sources, tmp_path / "out"):
        [written] = found.written
        assert written.sha256 == sha256_file(written.path)
        assert written.size == written.path.stat().st_size
        file = open_weight_file(written.path)
        assert written.weights_sha256 == file.weights_sha256() == file.metadata["sshs_model_hash"]
        assert file.metadata["lorax_conversion_id"] == found.conversion_id


def test_a_bad_file_costs_nobody_else_the_turn(sources: list[AdapterFiles], tmp_path: Path) -> None:
    sources[1].weights.write_bytes(b"<html>")
    sources[3].weights.unlink()
    spoilt = {name: tensor.half() for name, tensor in kohya_tensors(random_adapter(BASE)).items()}
    next(iter(spoilt.values()))[0, 0] = float("nan")
    write_weight_file(sources[4].weights, spoilt)

    found = convert(COPY, sources, tmp_path / "out")

    reasons = [getattr(one.problem, "reason", None) for one in found]
    assert reasons == [None, "html-page", None, "missing-weights", "non-finite"]
    assert [bool(one.written) for one in found] == [True, False, True, False, False]


def test_a_disk_that_refuses_one_adapter_is_its_problem_alone(sources: list[AdapterFiles], tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"")

    def folder(source: AdapterFiles) -> Path:
        return tmp_path / ("taken" if source is sources[0] else "out")

    first, *others = convert_files(COPY, sources, folder=folder)

    assert isinstance(first.problem, OSError)
    assert all(one.problem is None for one in others)


def test_an_adapter_that_needs_the_weights_of_its_base_says_so(sources: list[AdapterFiles], tmp_path: Path) -> None:
    tensors = kohya_tensors(random_adapter(BASE, match="mid_block"))
    for name in list(tensors):
        module, up, _ = name.partition(".lora_up")
        if up and tensors[name].dim() == 2:
            tensors[f"{module}.dora_scale"] = torch.ones(len(tensors[name]), 1)
    write_weight_file(sources[2].weights, tensors)
    out = tmp_path / "out"

    problems = [one.problem for one in convert(COPY, sources, out)]
    assert [getattr(problem, "reason", None) for problem in problems] == [None, None, "needs-base", None, None]

    def weight(site: object) -> torch.Tensor:
        return torch.ones(BASE.sites[site].weight_shape)  # type: ignore[index]

    again = list(convert_files(COPY, sources, folder=lambda _: out, weight=weight))
    assert [one.problem for one in again] == [None] * 5


def test_a_dialect_that_cannot_be_written_stops_before_any_file_is_read(tmp_path: Path) -> None:
    with pytest.raises(Stop, match="konya"):
        convert_files(COPY, [], folder=lambda _: tmp_path, dialect="konya")
