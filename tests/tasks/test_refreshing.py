from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from lorax.checkpoint import open_checkpoint
from lorax.improve import refreshed_name
from lorax.probe import ProbeSettings
from lorax.read import AdapterFiles, read_adapter
from lorax.refresh import RefreshSettings
from tasks.planning import PreparedPlan, prepare_pair
from tasks.refresh import refresh  # noqa: F401 - the task imports without an API
from tasks.refreshing import Refreshed, RefreshItem, refresh_shard
from tasks.ticks import listening
from tests.tasks.conftest import PROBE, Steps

LIMITS: dict[str, Any] = {"seconds": 600.0, "steps": 3}


@pytest.fixture(scope="module")
def zero(steps: Steps) -> PreparedPlan:
    source, target = steps.bases
    plans = str(steps.data / "plans")
    found = prepare_pair(source=source, target=target, method="zero", settings={}, probe=PROBE, plans=plans)
    return found["plans"]["zero"]


def items_of(steps: Steps, *, count: int = 1) -> list[RefreshItem]:
    return [
        RefreshItem(
            entry_key=key,
            entry=steps.found[key]["entry"],
            files=steps.fetched[key]["files"],
            conversion_id=str(record["conversion_id"]),
        )
        for key, record in list(steps.converted.items())[:count]
    ]


def refreshed(
    steps: Steps, zero: PreparedPlan, items: list[RefreshItem], *, out: Path, limits: dict[str, Any] | None = None
) -> list[Refreshed]:
    return refresh_shard(
        items,
        pair=steps.pair,
        zero=zero,
        bases=steps.bases,
        probe=PROBE,
        limits=limits or LIMITS,
        conversions=str(out),
    )


@pytest.fixture(scope="module")
def done(steps: Steps, zero: PreparedPlan, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Refreshed]:
    """Returns the folder of a refreshed conversion, and the record of it."""
    out = tmp_path_factory.mktemp("refreshed")
    (record,) = refreshed(steps, zero, items_of(steps), out=out)
    return out, record


def body_of(record: Refreshed) -> dict[str, Any]:
    assert record["ended"] is None
    assert record["body"] is not None
    return record["body"]


def test_it_is_a_conversion_like_any_other_and_says_what_was_learnt(done: tuple[Path, Refreshed], steps: Steps) -> None:
    out, record = done
    body, (item,) = body_of(record), items_of(steps)
    before = steps.converted[item["entry_key"]]["body"]
    assert before is not None
    assert set(body) == {*before, "refresh", "refreshed_from"}
    assert body["refreshed_from"] == item["conversion_id"]
    assert body["refresh"]["steps"] == 3
    assert body["refresh"]["divergence_gain"]["after"] >= body["refresh"]["divergence_gain"]["before"]
    (weights,) = (out / str(record["conversion_id"]) / "files").glob("*.safetensors")
    target = open_checkpoint(Path(steps.bases[1]["path"]), name=steps.bases[1]["name"]).base
    adapter = read_adapter(AdapterFiles(weights, None, weights.name), candidates=[target])
    assert len(adapter.updates) == body["sites_mapped"] > 0


def test_its_name_is_known_before_it_is_made(done: tuple[Path, Refreshed], steps: Steps) -> None:
    probe = ProbeSettings(prompts=("a digit", "a handwritten one"), samples=2, timesteps=(500,), steps=2)
    settings = RefreshSettings(probe, words=("bold style",), **LIMITS)
    (item,) = items_of(steps)
    earlier = str(item["conversion_id"])
    assert done[1]["conversion_id"] == refreshed_name(earlier, settings)
    others = (dataclasses.replace(settings, steps=4), dataclasses.replace(settings, words=("thin style",)))
    assert len({refreshed_name(earlier, each) for each in (settings, *others)}) == 3


def test_what_is_staged_is_found_and_not_learnt_again(
    done: tuple[Path, Refreshed], steps: Steps, zero: PreparedPlan
) -> None:
    out, record = done
    (again,) = refreshed(steps, zero, items_of(steps), out=out)
    assert again == {**record, "seconds": 0.0}
    assert record["seconds"] > 0


def test_the_same_input_gives_the_same_bytes(
    done: tuple[Path, Refreshed], steps: Steps, zero: PreparedPlan, tmp_path: Path
) -> None:
    (again,) = refreshed(steps, zero, items_of(steps), out=tmp_path)
    assert not body_of(again)["refresh"]["timed"]
    assert body_of(again)["files"] == body_of(done[1])["files"]
    assert again["conversion_id"] == done[1]["conversion_id"]


def test_out_of_time_it_stages_the_best_that_there_is(steps: Steps, zero: PreparedPlan, tmp_path: Path) -> None:
    (record,) = refreshed(steps, zero, items_of(steps), out=tmp_path, limits={**LIMITS, "seconds": 1e-6})
    facts = body_of(record)["refresh"]
    assert (facts["steps"], facts["timed"], facts["out_of_time"]) == (0, True, True)
    assert facts["divergence_gain"]["before"] == facts["divergence_gain"]["after"]


def test_without_an_earlier_conversion_its_name_follows_from_the_one_that_would_have_been(
    done: tuple[Path, Refreshed], steps: Steps, zero: PreparedPlan
) -> None:
    (item,) = items_of(steps)
    (record,) = refreshed(steps, zero, [{**item, "conversion_id": None}], out=done[0])
    assert record["conversion_id"] == done[1]["conversion_id"]


def test_what_the_catalogue_shows_an_adapter_with_is_learnt_by(
    done: tuple[Path, Refreshed], steps: Steps, zero: PreparedPlan, tmp_path: Path
) -> None:
    (item,) = items_of(steps)
    entry = {**item["entry"], "prompts": ["a bold style portrait of a sailor"]}
    (other,) = refreshed(steps, zero, [{**item, "entry": entry}], out=tmp_path)
    assert other["conversion_id"] != done[1]["conversion_id"]
    assert body_of(other)["weights_sha256_out"] != body_of(done[1])["weights_sha256_out"]


def test_one_that_cannot_be_read_ends_alone_and_leaves_nothing_behind(
    steps: Steps, zero: PreparedPlan, tmp_path: Path
) -> None:
    (good,) = items_of(steps)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(Path(good["files"][0]["path"]).read_bytes()[:-10])
    bad = RefreshItem(**{**good, "files": [{**good["files"][0], "path": str(cut)}], "conversion_id": "other"})
    out = tmp_path / "out"
    out.mkdir()
    first, second = refreshed(steps, zero, [bad, good], out=out)
    assert first["ended"] is not None
    assert (first["ended"].reason, first["conversion_id"]) == ("truncated", None)
    assert second["ended"] is None
    assert [path.name for path in out.iterdir()] == [second["conversion_id"]]


def test_whoever_watches_hears_of_one_item_bit_by_bit(steps: Steps, zero: PreparedPlan, tmp_path: Path) -> None:
    heard: list[tuple[str, float]] = []
    with listening(lambda stage, share: heard.append((stage, share))):
        refreshed(steps, zero, items_of(steps), out=tmp_path)
    shares = [share for stage, share in heard if stage == "refresh"]
    assert sum(shares) == pytest.approx(1.0)
    assert len(shares) > 1


def test_facts_are_plain_json(done: tuple[Path, Refreshed]) -> None:
    assert json.loads(json.dumps(body_of(done[1]))) == body_of(done[1])
