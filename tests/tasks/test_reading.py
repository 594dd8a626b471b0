from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from catalogs.entry import CatalogEntry
from catalogs.store import Store
from lorax.checkpoint import open_checkpoint
from tasks.border import BAD_FILE, TRY_LATER
from tasks.reading import Fetched, adapter_id, fetch_shard, spoken_name
from tests.stand_ins.small_world import SOURCE, SmallWorld
from tests.stand_ins.tiny_bases import make_adapter
from tests.tasks.conftest import base_folders, survey


def fetch(world: SmallWorld, name: str, *, store: Path | None = None) -> Fetched:
    [record] = fetch_shard([survey(world)[name]], bases=base_folders(world), store=str(store) if store else None)
    return record


def test_a_good_file_is_stored_and_described(world: SmallWorld, tmp_path: Path) -> None:
    record = fetch(world, "alpha.safetensors", store=tmp_path / "store")
    assert record["ended"] is None
    assert record["adapter"] is not None
    assert {key: record["adapter"][key] for key in ("dialect", "base", "dtype", "ranks")} == {
        "dialect": "kohya",
        "base": SOURCE,
        "dtype": "float32",
        "ranks": [2],
    }
    [file] = record["files"]
    assert Store(tmp_path / "store").get(file["sha256"]) == Path(file["path"])


def test_a_cut_file_ends_alone(world: SmallWorld, tmp_path: Path) -> None:
    found = survey(world)
    chosen = [found[name] for name in ("cut.safetensors", "alpha.safetensors")]
    cut, alpha = fetch_shard(chosen, bases=base_folders(world), store=str(tmp_path / "store"))
    assert cut["ended"] is not None
    assert (cut["ended"].family, cut["ended"].reason, cut["adapter"]) == (BAD_FILE, "truncated", None)
    assert alpha["ended"] is None


def test_a_file_that_changes_after_it_was_listed_is_tried_again_another_time(world: SmallWorld, tmp_path: Path) -> None:
    listed = survey(world)["alpha.safetensors"]
    (world.catalogue / "alpha.safetensors").write_bytes((world.catalogue / "beta.safetensors").read_bytes())
    [record] = fetch_shard([listed], bases=base_folders(world), store=str(tmp_path / "store"))
    assert record["ended"] is not None
    assert (record["ended"].family, record["ended"].reason) == (TRY_LATER, "file-changed")


def test_bytes_that_are_not_those_of_the_sidecar_are_refused(world: SmallWorld) -> None:
    sidecar = world.catalogue / "alpha.civitai.info"
    files = [{"name": "alpha.safetensors", "primary": True, "hashes": {"SHA256": "0" * 64}}]
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "files": files}))
    record = fetch(world, "alpha.safetensors")
    assert record["ended"] is not None
    assert (record["ended"].family, record["ended"].reason) == (BAD_FILE, "hash-mismatch")


def test_without_a_store_nothing_is_written(world: SmallWorld) -> None:
    before = sorted(world.settings.parent.rglob("*"))
    record = fetch(world, "alpha.safetensors")
    assert record["adapter"] is not None
    assert record["files"][0]["path"] == str(world.catalogue / "alpha.safetensors")
    assert sorted(world.settings.parent.rglob("*")) == before


def test_equal_tensors_under_another_scale_are_another_adapter(world: SmallWorld) -> None:
    """In some dialects the scale lies outside the tensors, so the hash of the tensors alone would not tell."""
    base = open_checkpoint(Path(base_folders(world)[0]["path"]), name=SOURCE).base
    adapter = make_adapter(base)
    louder = {site: replace(update, scale=2 * update.scale) for site, update in adapter.updates.items()}
    assert adapter_id(adapter) == adapter_id(make_adapter(base))
    assert adapter_id(adapter) != adapter_id(replace(adapter, updates=louder))


@pytest.mark.parametrize(
    ("entry_id", "weights", "name"),
    [
        ("a/b.safetensors", "x/a/b.safetensors", "a/b.safetensors"),
        ("thin", "x/thin/adapter_model.bin", "thin/adapter_model.bin"),
    ],
)
def test_messages_name_the_file_as_the_user_knows_it(entry_id: str, weights: str, name: str) -> None:
    assert spoken_name(CatalogEntry("c", entry_id, "n", weights)) == name
