"""What the gate rejects is refreshed where the migration allows it, and goes on like any other conversion."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from catalogs.ledger import open_reader
from catalogs.trace import TraceNode, trace
from flows.escalation import OTHER_CHANCE
from tests.stand_ins.small_world import SmallWorld
from tests.stand_ins.strange_letters import allow_refresh, make_strangers

pytestmark = pytest.mark.usefixtures("prefect_server")

ENOUGH = 60
"""Steps after which what a copy could not do is done."""


@dataclass(frozen=True)
class Ran:
    """What one run added to the ledger, by kind, and how the entries stood after it: (state, reason, text)."""

    news: Counter[str]
    ends: dict[str, tuple[str, str, str]]
    result: dict[str, Any]


def migrate(world: SmallWorld) -> Ran:
    from flows.migrate import migrate as flow

    before = events(world)
    result: dict[str, Any] = flow(migration=world.settings, data=world.data)
    rows = open_reader(world.data).rows("SELECT entry_id, state, reason, text FROM states")
    ends = {str(row["entry_id"]): (str(row["state"]), str(row["reason"]), str(row["text"])) for row in rows}
    return Ran(events(world) - before, ends, result)


def events(world: SmallWorld) -> Counter[str]:
    if not world.data.exists():
        return Counter()
    rows = open_reader(world.data).rows("SELECT kind, count(*) AS many FROM event GROUP BY kind")
    return Counter({str(row["kind"]): int(str(row["many"])) for row in rows})


def bodies(world: SmallWorld, kind: str) -> dict[str, dict[str, Any]]:
    rows = open_reader(world.data).rows("SELECT subject, body FROM event WHERE kind = ? ORDER BY sequence", [kind])
    return {str(row["subject"]): json.loads(str(row["body"])) for row in rows}


@dataclass(frozen=True)
class Story:
    """A migration that was run without a refresh, with too short a one, with enough of it, and once more."""

    world: SmallWorld
    without: Ran
    short: Ran
    enough: Ran
    again: Ran

    def refreshed(self) -> dict[str, dict[str, Any]]:
        """Returns the conversions that came through."""
        found = bodies(self.world, "converted")
        return {name: body for name, body in found.items() if body.get("refresh", {}).get("steps") == ENOUGH}


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Story:
    world = make_strangers(tmp_path_factory.mktemp("strangers"))
    without = migrate(world)
    allow_refresh(world, steps=1)
    short = migrate(world)
    allow_refresh(world, steps=ENOUGH)
    return Story(world, without, short, migrate(world), migrate(world))


def test_without_leave_nothing_is_refreshed(story: Story) -> None:
    assert [end[:2] for end in story.without.ends.values()] == [("rejected", "gate-divergence-gain")] * 2
    assert story.without.news["converted"] == story.without.news["judged"] == story.without.news["outcome"] == 2
    assert "refresh" not in json.dumps(story.without.ends)


def test_with_leave_what_was_rejected_is_looked_at_again_and_neither_converted_nor_scored_again(story: Story) -> None:
    """What is new is the refresh: one conversion, one card, one verdict and one ending for each entry."""
    assert story.short.news == Counter(
        run_started=1, run_finished=1, plan_compiled=1, converted=2, scored=2, judged=2, outcome=2
    )


def test_what_is_rejected_after_a_refresh_says_so(story: Story) -> None:
    for state, reason, text in story.short.ends.values():
        assert (state, reason) == ("rejected", "gate-divergence-gain")
        assert text.startswith("refreshed from ")
        assert "in 1 step, " in text
        assert "its lower end is" in text


def test_what_comes_through_after_a_refresh_is_published(story: Story) -> None:
    assert {end[:2] for end in story.enough.ends.values()} == {("published", "gate-passed")}
    assert story.world.published() == sorted(story.refreshed())
    assert story.enough.news["outcome"] == story.enough.news["published"] == 2


def test_the_same_command_does_nothing_twice(story: Story) -> None:
    assert story.again.news == Counter()
    assert story.again.result["run_id"] is None


def test_it_is_on_record_which_conversion_a_refresh_went_on_from_and_what_it_did(story: Story) -> None:
    first = {name for name, body in bodies(story.world, "converted").items() if body["method"] == "copy"}
    for body in story.refreshed().values():
        facts = body["refresh"]
        assert body["method"] == "refresh"
        assert body["refreshed_from"] in first
        assert set(facts["starts"]) == {"copy", "zero"}
        assert facts["started_from"] == max(facts["starts"], key=facts["starts"].__getitem__)
        assert facts["divergence_gain"]["after"] > facts["divergence_gain"]["before"] + 0.3
        assert facts["limits"] == {"seconds": 120.0, "steps": ENOUGH}
        assert facts["out_of_time"] is False
        assert body["sites_mapped"] == body["sites_total"] == 14


def test_the_second_score_is_taken_on_another_probe_than_the_first_and_than_the_refresh(story: Story) -> None:
    cards, refreshed = bodies(story.world, "scored"), story.refreshed()
    seeds = {name: card["score_key"]["probe"]["seed"] for name, card in cards.items()}
    assert {seeds[body["refreshed_from"]] for body in refreshed.values()} == {0}
    assert {seeds[name] for name in refreshed} == {OTHER_CHANCE}
    assert {body["refresh"]["seed"] for body in refreshed.values()} == {0}


def test_time_spent_on_refreshes_is_told_with_that_of_the_other_stages(story: Story) -> None:
    (finished,) = (
        body for name, body in bodies(story.world, "run_finished").items() if name == story.enough.result["run_id"]
    )
    assert finished["seconds"]["refresh"] > 0
    assert "refresh" in Path(finished["report"]).read_text()
    assert all(row["refreshed"].startswith("refreshed from ") for row in story.enough.result["entries"])


def nodes(node: TraceNode) -> Iterator[TraceNode]:
    yield node
    for origin in node.made_from:
        yield from nodes(origin)


def test_a_published_file_is_traced_to_its_refresh_and_to_the_conversion_before(story: Story) -> None:
    for release in sorted(story.world.hub.glob("[!.]*")):
        found = {
            node.what: node
            for node in nodes(trace(open_reader(story.world.data), release / "adapter_model.safetensors"))
        }
        conversion, learnt = dict(found["conversion"].facts), dict(found["refresh"].facts)
        assert conversion["method"] == "refresh"
        assert learnt["steps"] == ENOUGH
        assert {"before", "after"} == set(learnt["divergence gain"])  # type: ignore[call-overload]
        assert learnt["started from"] in {"copy", "zero"}
        assert found["conversion before"].name == story.refreshed()[found["conversion"].name]["refreshed_from"]
        assert "gate-divergence-gain" in json.dumps(found["conversion before"].to_json())
        assert found["entry"].name.startswith("catalogue:")


def test_card_and_manifest_name_the_refresh_and_what_it_started_from(story: Story) -> None:
    for release in sorted(story.world.hub.glob("[!.]*")):
        manifest = json.loads((release / "provenance.json").read_text())
        said = {one["name"]: one["annotations"] for one in manifest["predicate"]["runDetails"]["byproducts"]}
        start = said["refresh"]["started_from"]
        card = (release / "README.md").read_text()
        assert f"| Method | refresh \\(from {start}\\), plan `" in card
        assert f"| Refresh | {ENOUGH} steps on samples that the source adapter drew itself" in card
        assert "lorax-method:refresh" in card
        assert said["refresh"]["refreshed_from"] in bodies(story.world, "scored")


def test_where_time_is_up_the_next_run_goes_on(tmp_path: Path) -> None:
    """No refresh takes 50 s here, so one fits into the time for all, and a second one never does."""
    world = make_strangers(tmp_path)
    allow_refresh(world, steps=ENOUGH, seconds_per_adapter=50, seconds_in_all=50)
    first = migrate(world)
    (state, reason, text) = next(end for end in first.ends.values() if end[0] == "rejected")
    assert sorted(end[0] for end in first.ends.values()) == ["published", "rejected"]
    assert (state, reason) == ("rejected", "gate-divergence-gain")
    assert text.endswith("not refreshed yet: the 50 s of [refresh] seconds_in_all are spent, the next run goes on")
    second = migrate(world)
    assert {end[0] for end in second.ends.values()} == {"published"}
    assert second.news["outcome"] == second.news["converted"] == second.news["scored"] == 1
    assert migrate(world).news == Counter()


def test_what_no_plan_can_convert_begins_at_nothing(tmp_path: Path) -> None:
    world = make_strangers(tmp_path, ["loud"], target_width=24)
    (without,) = migrate(world).ends.values()
    assert without[:2] == ("skipped", "no-common-site")
    allow_refresh(world, steps=ENOUGH)
    (state, reason, text) = migrate(world).ends["loud"]
    assert (state, reason) == ("published", "gate-passed"), text
    assert text.startswith("refreshed from zero in ")
    assert migrate(world).news == Counter()
