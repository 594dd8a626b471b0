from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from lorax.adapter import Adapter
from lorax.algorithms.dora import DoRA
from lorax.checkpoint import open_checkpoint
from lorax.read import AdapterFiles, read_adapter
from lorax.weight_file import open_weight_file, write_weight_file
from tasks.conversion import Converted, ConvertItem, convert_shard, file_stem, find_staged, staged_files
from tests.stand_ins.small_world import TARGET
from tests.tasks.conftest import Steps


def items_of(steps: Steps) -> list[ConvertItem]:
    return [
        ConvertItem(entry_key=key, entry=steps.found[key]["entry"], files=fetched["files"])
        for key, fetched in steps.fetched.items()
    ]


def convert(steps: Steps, items: list[ConvertItem], conversions: Path) -> list[Converted]:
    return convert_shard(items, plan=steps.pair["plans"]["copy"], bases=steps.bases, conversions=str(conversions))


def test_each_conversion_is_staged_whole_and_reads_back_as_an_adapter_of_the_target(steps: Steps) -> None:
    target = open_checkpoint(Path(steps.bases[1]["path"]), name=TARGET).base
    for record in steps.converted.values():
        assert record["body"] is not None
        folder = staged_files(steps.conversions, str(record["conversion_id"]))
        [path] = folder.iterdir()
        adapter = read_adapter(AdapterFiles(path, name=path.name), candidates=[target])
        assert adapter.base.name == TARGET
        assert record["body"]["files"][0]["name"] == path.name
        assert record["body"]["sites_mapped"] == record["body"]["sites_total"] == len(adapter.updates)


def test_nothing_but_finished_conversions_is_left_in_the_folder(steps: Steps) -> None:
    assert sorted(path.name for path in steps.conversions.iterdir()) == sorted(
        str(record["conversion_id"]) for record in steps.converted.values()
    )


def test_a_staged_conversion_is_found_and_not_made_again(steps: Steps, tmp_path: Path) -> None:
    shutil.copytree(steps.conversions, tmp_path / "conversions")
    [name] = [str(record["conversion_id"]) for record in steps.converted.values()][:1]
    record_file = tmp_path / "conversions" / name / "conversion.json"
    record_file.write_text(json.dumps({**json.loads(record_file.read_text()), "seconds": 12345}))
    again = convert(steps, items_of(steps), tmp_path / "conversions")
    assert [record["body"]["seconds"] == 12345 for record in again if record["body"]].count(True) == 1


def test_a_draft_of_a_killed_run_is_no_conversion(steps: Steps, tmp_path: Path) -> None:
    [name] = [str(record["conversion_id"]) for record in steps.converted.values()][:1]
    shutil.copytree(steps.conversions / name, tmp_path / f".{name}.999")
    assert find_staged(tmp_path, name) is None


def test_the_same_adapter_under_the_same_plan_has_the_same_id_and_bytes(steps: Steps, tmp_path: Path) -> None:
    again = convert(steps, items_of(steps), tmp_path)
    for record in again:
        before = steps.converted[record["entry_key"]]
        assert record["conversion_id"] == before["conversion_id"]
        assert record["body"] is not None
        assert before["body"] is not None
        assert record["body"]["files"] == before["body"]["files"]


def test_a_file_that_went_bad_in_the_store_ends_alone(steps: Steps, tmp_path: Path) -> None:
    items = items_of(steps)
    broken = tmp_path / "broken"
    broken.write_bytes(b"nothing of the kind")
    items[0] = ConvertItem(**{**items[0], "files": [{**items[0]["files"][0], "path": str(broken)}]})  # type: ignore[typeddict-item]
    first, *others = convert(steps, items, tmp_path / "conversions")
    assert first["ended"] is not None
    assert first["ended"].family == "bad-file"
    assert [record["ended"] for record in others] == [None, None]


@pytest.mark.parametrize(
    ("name", "stem"),
    [("Bold digits", "Bold-digits"), ("../../etc/passwd", "etc-passwd"), ("日本", "adapter"), ("x" * 200, "x" * 64)],
)
def test_file_names_are_harmless_whatever_the_catalogue_says(name: str, stem: str) -> None:
    assert file_stem(name) == stem


def as_dora(item: ConvertItem, folder: Path) -> ConvertItem:
    """Gives the same adapter with a magnitude for every linear layer, as LyCORIS stores DoRA."""
    [file] = item["files"]
    opened = open_weight_file(Path(file["path"]))
    tensors = {name: opened.read(name) for name in opened.tensors}
    for name in list(tensors):
        module, up, _ = name.partition(".lora_up")
        if up and tensors[name].dim() == 2:
            tensors[f"{module}.dora_scale"] = torch.linspace(0.5, 2.0, len(tensors[name]))[:, None]
    path = folder / "dora.safetensors"
    write_weight_file(path, tensors, metadata=opened.metadata)
    return ConvertItem(**{**item, "files": [{**file, "path": str(path)}]})  # type: ignore[typeddict-item]


def staged(steps: Steps, record: Converted, conversions: Path) -> Adapter:
    """Gives a staged conversion as it is read back."""
    [path] = staged_files(conversions, str(record["conversion_id"])).iterdir()
    target = open_checkpoint(Path(steps.bases[1]["path"]), name=TARGET).base
    return read_adapter(AdapterFiles(path, name=path.name), candidates=[target])


def test_a_dora_is_published_as_dora_of_its_own_rank_where_the_dialect_can_say_it(steps: Steps, tmp_path: Path) -> None:
    item = as_dora(items_of(steps)[0], tmp_path)
    here, there = (open_checkpoint(Path(base["path"]), name=base["name"]) for base in steps.bases)
    before = read_adapter(AdapterFiles(tmp_path / "dora.safetensors"), candidates=[here.base])

    plan, conversions = steps.pair["plans"]["copy"], str(tmp_path / "conversions")
    [record] = convert_shard([item], plan=plan, bases=steps.bases, conversions=conversions, dialect="lycoris")

    assert record["body"] is not None
    after = staged(steps, record, tmp_path / "conversions")
    gained = {site: update for site, update in before.updates.items() if isinstance(update, DoRA)}
    assert record["body"]["gains_carried"] == len(gained) > 0
    assert record["body"]["approximated_norm_share"] == 0.0
    for site, update in gained.items():
        moved = after.updates[site]
        assert isinstance(moved, DoRA)
        assert moved.inner.low_rank().rank == update.inner.low_rank().rank  # type: ignore[union-attr]
        gain = update.gain(here.weight(site))
        rounding = torch.finfo(before.dtype).eps
        torch.testing.assert_close(moved.gain(there.weight(site)), gain, rtol=4 * rounding, atol=rounding)
    assert record["conversion_id"] != convert(steps, [item], tmp_path / "conversions")[0]["conversion_id"]


def test_an_adapter_that_is_no_lora_is_lowered_on_its_own_base_and_the_loss_is_told(
    steps: Steps, tmp_path: Path
) -> None:
    item = as_dora(items_of(steps)[0], tmp_path)

    [record] = convert(steps, [item], tmp_path / "conversions")

    assert record["ended"] is None
    assert record["body"] is not None
    moved = staged(steps, record, tmp_path / "conversions")
    assert moved.algorithms == ("lora",)
    assert max(moved.ranks()) > 4  # a magnitude changes a weight in full rank, and these layers are small enough for it
    assert record["body"]["approximated_norm_share"] < 1e-9
    assert record["body"]["sites_mapped"] == record["body"]["sites_total"]
