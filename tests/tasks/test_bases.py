from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from lorax.adapter import Site
from lorax.base_models import known_bases
from lorax.checkpoint import Checkpoint
from lorax.errors import Stop, Unsupported
from tasks import bases
from tasks.bases import BaseFolder, candidates, has_weights, known_base, open_base, why_not_runnable
from tests.stand_ins.small_world import SOURCE, SmallWorld
from tests.stand_ins.tiny_pipelines import make_sdxl
from tests.tasks.conftest import base_folders


def named(known: str, *, name: str = "old", labels: tuple[str, ...] = ()) -> BaseFolder:
    return BaseFolder(name=name, path="", labels=list(labels), known=known)


def test_a_base_may_be_known_by_its_name_or_by_a_label() -> None:
    assert known_base("sdxl").name == "sdxl"
    assert known_base("segmind/small-sd").name == "bk-sdm-base"


def test_a_name_that_nobody_knows_is_refused_with_those_near_it() -> None:
    with pytest.raises(Stop, match=r"no base model is known by the name 'BK-SDM-smal'; near it: bk-sdm-small, "):
        known_base("BK-SDM-smal")


def test_a_label_that_several_share_is_refused_with_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    twins = [dataclasses.replace(base, labels=("twin",)) for base in known_bases()[:2]]
    monkeypatch.setattr(bases, "known_bases", lambda: twins)
    with pytest.raises(Stop, match=f"several known bases are called 'twin': {twins[0].name}, {twins[1].name}"):
        known_base("twin")


def test_a_named_base_answers_to_its_known_name_and_labels_as_well() -> None:
    base = open_base(named("bk-sdm-base", labels=("Small",))).base
    assert base.name == "old"
    assert {"Small", "bk-sdm-base", "segmind/small-sd"} <= set(base.labels)
    assert base.sites == known_base("bk-sdm-base").sites


def test_a_named_base_has_no_weights_and_says_how_to_give_it_some(world: SmallWorld) -> None:
    base = open_base(named("sd1.5"))
    assert not has_weights(base)
    assert has_weights(open_base(base_folders(world)[0]))
    with pytest.raises(Unsupported, match=r"give its folder as `path` under \[bases\.old\]") as caught:
        base.weight(Site("unet", "conv_in"))
    assert caught.value.reason == "needs-base"


def test_a_base_that_a_migration_names_does_not_rival_itself(world: SmallWorld) -> None:
    found = candidates([base_folders(world)[0], named("sd1.5")])
    assert [base.name for base in found[:2]] == [SOURCE, "old"]
    assert "sd1.5" not in {base.name for base in found}
    assert len(found) == len(known_bases()) + 1


def test_a_folder_without_a_base_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(Stop, match="no known family"):
        open_base(BaseFolder(name="old", path=str(tmp_path), labels=[]))


def test_why_a_base_cannot_be_run_is_known_before_anybody_tries(world: SmallWorld, tmp_path: Path) -> None:
    whole = base_folders(world)[0]
    folder = Path(whole["path"])
    unet = BaseFolder(name="part", path=str(folder / "unet"), labels=[])
    assert why_not_runnable(open_base(whole)) == ""
    assert "it is the unet alone" in why_not_runnable(open_base(unet))
    assert why_not_runnable(open_base(named("sdxl"))) == "it is known by name alone"
    shutil.copytree(folder, tmp_path / "cut", ignore=shutil.ignore_patterns("tokenizer"))
    assert "it lacks tokenizer/" in why_not_runnable(at(tmp_path / "cut"))


def test_a_base_of_two_text_encoders_can_be_run(tmp_path: Path) -> None:
    make_sdxl(tmp_path / "xl", seed=1)
    assert why_not_runnable(at(tmp_path / "xl")) == ""
    shutil.rmtree(tmp_path / "xl" / "text_encoder")
    assert why_not_runnable(at(tmp_path / "xl")).startswith("this version runs ")


def at(folder: Path) -> Checkpoint:
    return open_base(BaseFolder(name=folder.name, path=str(folder), labels=[]))
