from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from catalogs.errors import Stop
from catalogs.ledger import Fact, Ledger
from catalogs.provenance import conversion_record
from catalogs.release import open_release
from tasks.publishing import find_published, open_hub, publish_shard
from tasks.releasing import ReleaseItem, build_shard, release_folder
from tests.tasks.conftest import Steps

CARD = {"converted": {"divergence_gain": {"value": 0.9, "low": 0.8, "high": 1.0}}}


@pytest.fixture
def items(steps: Steps) -> list[ReleaseItem]:
    """Returns the conversions with their records from a ledger that knows only what a release needs."""
    facts: list[Fact] = []
    for key, record in steps.converted.items():
        adapter = steps.fetched[key]["adapter"] or {}
        body = {"entry_key": key, "file_sha256": steps.fetched[key]["files"][0]["sha256"], **adapter}
        facts.append(
            ("entry_seen", key, {"entry": steps.found[key]["entry"], "decision": steps.found[key]["decision"]})
        )
        facts.append(("adapter_read", adapter["weights_sha256"], body))
        facts.append(("converted", str(record["conversion_id"]), {**(record["body"] or {}), "entry_key": key}))
        facts.append(("scored", str(record["conversion_id"]), {"figures": CARD, "probe_id": "probe"}))
        facts.append(("judged", str(record["conversion_id"]), {"passed": True, "reasons": [["gate-passed", "good"]]}))
    facts += [("plan_compiled", plan["plan_id"], dict(plan)) for plan in steps.pair["plans"].values()]
    with Ledger.in_memory() as ledger:
        ledger.append_many(facts)
        return [
            ReleaseItem(
                entry_key=key,
                record=conversion_record(ledger, str(record["conversion_id"])),
                title=f"{steps.found[key]['entry']['name']} for tiny-v2",
                base_model="someone/tiny-v2",
                image=None,
            )
            for key, record in steps.converted.items()
        ]


def test_a_release_holds_weights_card_and_a_manifest_over_both(steps: Steps, items: list[ReleaseItem]) -> None:
    for item, record in zip(items, build_shard(items, conversions=str(steps.conversions)), strict=True):
        assert record["ended"] is None
        release = open_release(release_folder(steps.conversions, record["conversion_id"]))
        assert release.manifest_sha256 == record["manifest_sha256"]
        [weights] = [name for name, _ in release.files if name not in {"README.md", "provenance.json"}]
        assert weights.endswith(".safetensors")
        assert len(release.files) == 3
        assert "someone/tiny-v2" in (release.folder / "README.md").read_text()
        assert release.title == item["title"]


def test_releases_are_published_and_their_folders_cleared(
    steps: Steps, items: list[ReleaseItem], tmp_path: Path
) -> None:
    built = build_shard(items, conversions=str(steps.conversions))
    done = publish_shard(built, hub="folder", location=str(tmp_path / "hub"))
    for record in done:
        assert record["body"] is not None
        marker = json.loads((Path(record["body"]["location"]) / "provenance.json").read_bytes())
        assert marker["conversion_id"] == record["conversion_id"]
        assert not release_folder(steps.conversions, record["conversion_id"]).exists()


def test_what_is_on_the_hub_is_found_there_and_not_published_again(
    steps: Steps, items: list[ReleaseItem], tmp_path: Path
) -> None:
    hub = {"hub": "folder", "location": str(tmp_path / "hub")}
    names = [str(record["conversion_id"]) for record in steps.converted.values()]
    assert find_published(names, **hub) == {}
    first = publish_shard(build_shard(items, conversions=str(steps.conversions)), **hub)
    second = publish_shard(build_shard(items, conversions=str(steps.conversions)), **hub)
    assert [record["body"] for record in first] == [record["body"] for record in second]
    assert sorted(find_published(names, **hub)) == sorted(names)
    assert len([path for path in (tmp_path / "hub").iterdir() if path.name != ".incoming"]) == len(names)


def test_a_place_that_is_taken_ends_one_and_not_the_others(
    steps: Steps, items: list[ReleaseItem], tmp_path: Path
) -> None:
    built = build_shard(items, conversions=str(steps.conversions))
    taken = tmp_path / "hub" / f"alpha-for-tiny-v2-{built[0]['conversion_id'][:8]}"
    taken.mkdir(parents=True)
    first, *others = publish_shard(built, hub="folder", location=str(tmp_path / "hub"))
    assert first["ended"] is not None
    assert first["ended"].reason == "name-taken"
    assert [record["ended"] for record in others] == [None, None]


def test_an_unknown_kind_of_hub_stops_the_run_with_the_kinds_there_are(tmp_path: Path) -> None:
    with pytest.raises(Stop, match="'gitlab'; known: folder"):
        open_hub("gitlab", str(tmp_path))


@pytest.mark.parametrize(
    ("lacking", "reason"),
    [({"figures": {}}, "not-scored"), ({"passed": None}, "not-passed"), ({"passed": False}, "not-passed")],
)
def test_what_was_not_scored_or_did_not_pass_gets_no_release(
    steps: Steps, items: list[ReleaseItem], lacking: dict[str, Any], reason: str
) -> None:
    first, *others = items
    unfit = ReleaseItem(**{**first, "record": dataclasses.replace(first["record"], **lacking)})
    folder = release_folder(steps.conversions, first["record"].conversion_id)
    shutil.rmtree(folder, ignore_errors=True)
    ended, *built = build_shard([unfit, *others], conversions=str(steps.conversions))
    assert ended["ended"] is not None
    assert ended["ended"].reason == reason
    assert not folder.exists()
    assert [record["ended"] for record in built] == [None] * len(others)


@pytest.mark.parametrize(("byproduct", "reason"), [("score card", "not-scored"), ("verdict", "not-passed")])
def test_a_release_whose_manifest_lacks_card_or_verdict_never_reaches_the_hub(
    steps: Steps, items: list[ReleaseItem], tmp_path: Path, byproduct: str, reason: str
) -> None:
    """Whoever has put it there: what is asked is the release itself."""
    built = build_shard(items, conversions=str(steps.conversions))
    manifest = Path(built[0]["folder"]) / "provenance.json"
    statement = json.loads(manifest.read_bytes())
    details = statement["predicate"]["runDetails"]
    details["byproducts"] = [one for one in details["byproducts"] if one["name"] != byproduct]
    manifest.write_text(json.dumps(statement))
    refused, *others = publish_shard(built, hub="folder", location=str(tmp_path / "hub"))
    assert refused["ended"] is not None
    assert refused["ended"].reason == reason
    assert [record["ended"] for record in others] == [None] * len(others)
    assert len([path for path in (tmp_path / "hub").iterdir() if path.name != ".incoming"]) == len(others)
