from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lorax.base_models import known_bases
from lorax.errors import Stop
from lorax.method import Setting
from lorax.operators import kind_of
from lorax.plan import load_plan, plan_key
from lorax.weight_file import sha256_file, write_weight_file
from tests.stand_ins.adapter_files import small_base
from tests.stand_ins.pairs import Pair, lineage  # noqa: F401 - fixture


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("copy", {}),
        ("lora-x", {}),
        ("lora-x", {"norm_match": True}),
        ("prolora", {}),
        ("prolora", {"form": "full", "keep_rank": False}),
        ("calibrated", {}),
        ("random", {}),
        ("zero", {}),
    ],
)
def test_a_plan_read_back_equals_the_plan_saved(
    method: str,
    settings: dict[str, Setting],
    lineage: Pair,  # noqa: F811
    tmp_path: Path,
) -> None:
    plan = lineage.plan(method, settings)

    again = load_plan(plan.save(tmp_path))

    assert (again.key, again.method, dict(again.settings)) == (plan.key, plan.method, dict(plan.settings))
    assert (again.source_fingerprint, again.target_fingerprint) == (plan.source_fingerprint, plan.target_fingerprint)
    for was, now in zip(plan.sites, again.sites, strict=True):
        assert (was.target, was.source, was.reason) == (now.target, now.source, now.reason)
        assert (was.term is None) == (now.term is None)
        if was.term is not None and now.term is not None:
            for first, second in zip(was.term.products, now.term.products, strict=True):
                assert kind_of(first.output) == kind_of(second.output)
                for before, after in zip(first, second, strict=True):
                    assert all(torch.equal(tensor, after.tensors()[part]) for part, tensor in before.tensors().items())
            assert was.term.keeps_rank == now.term.keeps_rank
            assert was.term.per_channel == now.term.per_channel
            assert was.term.norm_ratio == now.term.norm_ratio


def test_a_plan_is_named_by_its_own_hash(lineage: Pair, tmp_path: Path) -> None:  # noqa: F811
    path = lineage.plan("copy").save(tmp_path)

    assert path.stem == sha256_file(path) == load_plan(path).plan_id
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_plan_holds_all_that_reading_and_writing_need_to_know_of_both_bases(
    lineage: Pair,  # noqa: F811
    tmp_path: Path,
) -> None:
    again = load_plan(lineage.plan("copy").save(tmp_path))

    for was, now in ((lineage.source.base, again.source_base), (lineage.target.base, again.target_base)):
        assert {field: getattr(was, field) for field in was.__slots__} == {
            field: getattr(now, field) for field in now.__slots__
        }


def test_a_plan_under_a_name_of_its_own_opens_and_keeps_its_id(lineage: Pair, tmp_path: Path) -> None:  # noqa: F811
    path = lineage.plan("copy").save(tmp_path)
    renamed = path.rename(tmp_path / "mine.safetensors")

    assert load_plan(renamed).plan_id == path.stem


@pytest.mark.parametrize(
    ("description", "said"),
    [
        ({"format": "1", "key": "k"}, r"no plan of format 4 \(found '1'\). Compile it anew"),
        ({"format": "4", "key": "k"}, "damaged"),
        ([], "no plan of format 4"),
        (None, "no plan of format 4"),
    ],
)
def test_a_file_that_holds_no_plan_of_this_format_is_refused(description: object, said: str, tmp_path: Path) -> None:
    metadata = {} if description is None else {"lorax_plan": json.dumps(description)}
    write_weight_file(tmp_path / "old.safetensors", {"a": torch.zeros(1)}, metadata=metadata)

    with pytest.raises(Stop, match=said):
        load_plan(tmp_path / "old.safetensors")


def test_a_plan_that_is_not_what_its_name_says_is_refused(lineage: Pair, tmp_path: Path) -> None:  # noqa: F811
    path = lineage.plan("lora-x").save(tmp_path)
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)

    with pytest.raises(Stop, match="named by its hash"):
        load_plan(path)


def test_the_key_tells_apart_all_that_decides_a_plan(lineage: Pair) -> None:  # noqa: F811
    source, target = lineage.source.base, lineage.target.base
    keys = [
        plan_key(source, target, method="copy", settings={}, probe_id=""),
        plan_key(target, source, method="copy", settings={}, probe_id=""),
        plan_key(source, target, method="lora-x", settings={}, probe_id=""),
        plan_key(source, target, method="lora-x", settings={"energy": 0.9}, probe_id=""),
        plan_key(source, target, method="calibrated", settings={}, probe_id="one"),
        plan_key(source, target, method="calibrated", settings={}, probe_id="two"),
    ]

    assert len(set(keys)) == len(keys)


def test_a_default_written_out_and_a_probe_that_a_method_ignores_change_no_key(lineage: Pair) -> None:  # noqa: F811
    source, target = lineage.source.base, lineage.target.base
    plain = plan_key(source, target, method="lora-x", settings={}, probe_id="")

    assert plain == plan_key(source, target, method="lora-x", settings={"energy": 0.99}, probe_id="another")


def test_an_unknown_method_or_setting_is_named_beside_the_known_ones(lineage: Pair) -> None:  # noqa: F811
    with pytest.raises(Stop, match=r"'copi'.*copy.*lora-x"):
        lineage.plan("copi")
    with pytest.raises(Stop, match=r"'enrgy'.*energy"):
        lineage.plan("lora-x", {"enrgy": 0.5})


def test_bases_without_weights_are_told_apart_by_their_inventories() -> None:
    bases = {base.name: base for base in known_bases()}
    keys = {
        plan_key(bases["sd1.5"], bases[name], method="copy", settings={}, probe_id="")
        for name in ("sd1.5", "sd2.1", "sdxl")
    }

    assert len(keys) == 3
    assert {base.fingerprint for base in bases.values()} == {""}


def test_another_way_of_pairing_sites_is_another_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    base = small_base()
    before = plan_key(base, base, method="copy", settings={}, probe_id="")

    monkeypatch.setattr("lorax.plan.CORRESPONDENCE_VERSION", 99)

    assert plan_key(base, base, method="copy", settings={}, probe_id="") != before
