from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from catalogs.errors import Stop
from tasks.border import BAD_FILE, REFUSED
from tasks.survey import survey_catalogue
from tests.stand_ins.small_world import SmallWorld
from tests.tasks.conftest import survey


def test_every_file_is_an_entry_with_its_hash(world: SmallWorld) -> None:
    found = survey(world)
    assert len(found) == 8
    assert all(len(file["sha256"]) == 64 for one in found.values() for file in one["files"])


def test_equal_bytes_go_on_once_under_the_first_name(world: SmallWorld) -> None:
    found = survey(world)
    assert found["alpha.safetensors"]["ended"] is None
    why = found["alpha_again.safetensors"]["ended"]
    assert why is not None
    assert (why.family, why.reason) == (REFUSED, "duplicate")
    assert "alpha.safetensors" in why.text


def test_a_copy_without_its_sidecar_does_not_wash_the_terms_away(world: SmallWorld) -> None:
    shutil.copyfile(world.catalogue / "forbidden.safetensors", world.catalogue / "a_copy.safetensors")
    why = survey(world)["a_copy.safetensors"]["ended"]
    assert why is not None
    assert why.reason == "no-derivatives"


def test_a_changed_sidecar_is_seen(world: SmallWorld) -> None:
    before = survey(world)["alpha.safetensors"]
    sidecar = world.catalogue / "alpha.civitai.info"
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "trainedWords": ["other words"]}))
    after = survey(world)["alpha.safetensors"]
    assert after["content_sha256"] == before["content_sha256"]
    assert after["sidecars_sha256"] != before["sidecars_sha256"]


def test_a_link_out_of_the_catalogue_is_never_followed(world: SmallWorld) -> None:
    (world.catalogue / "secret.safetensors").symlink_to("/etc/hostname")
    one = survey(world)["secret.safetensors"]
    assert one["ended"] is not None
    assert (one["ended"].family, one["ended"].reason, one["files"]) == (BAD_FILE, "unreadable", [])


def test_a_folder_with_a_config_and_no_weights_says_what_is_missing(world: SmallWorld) -> None:
    (world.catalogue / "peft").mkdir()
    (world.catalogue / "peft" / "adapter_config.json").write_text("{}")
    why = survey(world)["peft"]["ended"]
    assert why is not None
    assert why.reason == "missing-weights"
    assert "adapter_model.safetensors" in why.text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_tried_again_another_time(world: SmallWorld) -> None:
    (world.catalogue / "alpha.safetensors").chmod(0)
    why = survey(world)["alpha.safetensors"]["ended"]
    assert why is not None
    assert why.reason == "unreadable"


def test_hashes_are_remembered_only_where_that_is_asked_for(world: SmallWorld, tmp_path: Path) -> None:
    for path in world.catalogue.iterdir():
        os.utime(path, ns=(10**18, 10**18))
    arguments = {"source": "folder", "location": str(world.catalogue), "policy": {}}
    survey_catalogue(**arguments)
    assert not (tmp_path / "memory.json").exists()


def test_an_unknown_kind_of_catalogue_stops_the_run_with_the_kinds_there_are() -> None:
    with pytest.raises(Stop, match="'floder'; known: folder"):
        survey_catalogue(source="floder", location=".", policy={})
