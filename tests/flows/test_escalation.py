from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from catalogs.ledger import Ledger
from flows.escalation import OTHER_CHANCE, _Clock, _Refreshing, may_be_refreshed, told
from flows.folders import Folders
from flows.journal import Journal
from flows.progress import Lines
from flows.run import Run
from flows.settings import RefreshTable, SettingsError, load_migration
from flows.stopwatch import Stopwatch
from flows.to_do import Item
from lorax.judging import further
from lorax.prepare import calibration_probe
from lorax.probe import ProbeSettings
from lorax.refresh_lessons import _OWN_CHANCE
from tasks.border import BAD_FILE, TRY_LATER, UNSUPPORTED, Ended
from tests.stand_ins.strange_letters import allow_refresh, make_strangers

MOST_ROUNDS = 6
"""The most that [score] rounds can be set to."""
REPORT = {"started_from": "copy", "steps": 24, "seconds": 5.07}


def migration(**values: Any) -> Any:
    return SimpleNamespace(refresh=RefreshTable(**{"allowed": True, **values}))


def pair(**unfit: str) -> Any:
    return {"not_runnable": unfit}


def item(*reasons: str, ended: str = "") -> Item:
    found: Any = {"entry_key": "c:a", "entry": {"entry_id": "a", "name": "a"}, "files": [], "ended": None}
    judged = {"passed": False, "reasons": [[reason, "too low"] for reason in reasons]} if reasons else None
    why = Ended(UNSUPPORTED, ended, "no way") if ended else None
    return Item(found, "work", conversion_id=None if ended else "first", judged=judged, ended=why)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with Ledger.in_memory(run_id="r1") as ledger:
        known = {"weights_sha256_out": "of the first", "entry_key": "c:a", "method": "refresh"}
        ledger.append("converted", "refreshed", known)
        yield Run("r1", migration(), Folders(tmp_path), ledger, Lines(lambda _: None), Stopwatch(), has_begun=True)


def record(weights: str, *, seconds: float = 1.0) -> dict[str, Any]:
    body = {"weights_sha256_out": weights, "refresh": REPORT}
    return {"conversion_id": "refreshed", "body": body, "seconds": seconds, "ended": None}


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (item("gate-divergence-gain"), True),
        (item("gate-uncertain"), True),
        (item("gate-worse-than-copy", "gate-figure"), True),
        (item("gate-non-finite"), False),
        (item(ended="would-harm"), True),
        (item(ended="no-common-site"), True),
        (item(ended="needs-base"), False),
        (item(), False),
    ],
)
def test_what_learning_can_mend_is_refreshed(one: Item, *, expected: bool) -> None:
    assert may_be_refreshed(migration(), pair(), one) is expected
    assert not may_be_refreshed(migration(allowed=False), pair(), one)
    assert not may_be_refreshed(migration(), pair(old="it is known by name alone"), one)


def test_nothing_that_the_second_score_draws_by_was_drawn_by_before() -> None:
    """Rounds of a verdict in doubt included; the numbers next to a seed are noise of its samples and pictures."""
    probe = ProbeSettings(prompts=())
    second = replace(probe, seed=probe.seed + OTHER_CHANCE)
    before = [probe, calibration_probe(probe), replace(probe, seed=_OWN_CHANCE)]
    before += [further(probe, number) for number in range(MOST_ROUNDS)]
    after = [second, *(further(second, number) for number in range(MOST_ROUNDS))]
    near = range(-3, 4)
    seen = {one.seed + step for one in before for step in near}
    assert not seen & {one.seed + step for one in after for step in near}


def test_one_begins_only_where_the_longest_that_it_may_take_is_left(run: Run) -> None:
    run.migration = migration(seconds_per_adapter=10, seconds_in_all=25)
    stage = _Refreshing(run, _Clock(run))
    for _ in range(2):
        assert stage.clock.admits()
        stage.clock.promised += 1
    assert not stage.clock.admits()
    stage.clock.ended(4.0)
    assert stage.clock.admits()
    stage.clock.ended(8.0)
    assert run.refresh_seconds == 12.0
    assert stage.clock.admits()
    assert not _Clock(run, promised=1).admits()


def test_without_a_limit_for_all_everything_begins(run: Run) -> None:
    run.refresh_seconds = 1e9
    assert _Clock(run).admits()


def test_what_is_staged_and_on_record_is_not_recorded_again(run: Run) -> None:
    stage = _Refreshing(run, _Clock(run, promised=1))
    one = item("gate-divergence-gain")
    stage.settle([one], [record("of the first", seconds=0.0)])
    assert (stage.refreshed, stage.remade, run.refresh_seconds) == ([one], set(), 0.0)
    assert (one.conversion_id, one.refreshed) == ("refreshed", "refreshed from copy in 24 steps, 5.1 s")
    assert len(run.ledger.rows("SELECT 1 FROM event")) == 1


def test_other_bytes_under_the_same_name_are_recorded_and_earlier_figures_are_not_about_them(run: Run) -> None:
    """Where time ended a refresh, and its files were lost, the next one may come to another end."""
    stage = _Refreshing(run, _Clock(run, promised=1))
    stage.settle([item("gate-divergence-gain")], [record("of the second")])
    assert stage.remade == {"refreshed"}
    assert Journal(run.ledger).conversions()["refreshed"]["weights_sha256_out"] == "of the second"


@pytest.mark.parametrize(
    ("why", "state", "reason"),
    [
        (Ended(UNSUPPORTED, "unwritable", "no word for it"), "rejected", "gate-divergence-gain"),
        (Ended(BAD_FILE, "non-finite", "NaN"), "rejected", "gate-divergence-gain"),
        (Ended(TRY_LATER, "out-of-memory", "free some"), "failed", "out-of-memory"),
    ],
)
def test_where_no_refresh_comes_about_the_verdict_stands(run: Run, why: Ended, state: str, reason: str) -> None:
    stage = _Refreshing(run, _Clock(run, promised=1))
    stage.settle([item("gate-divergence-gain")], [{"conversion_id": None, "seconds": 2.0, "ended": why}])
    (end,) = Journal(run.ledger).outcomes().values()
    assert (end["state"], end["reason"]) == (state, reason)
    assert why.text in end["text"]
    assert (stage.refreshed, run.refresh_seconds) == ([], 2.0)


def test_a_worker_that_died_has_spent_what_it_was_promised(run: Run) -> None:
    stage = _Refreshing(run, _Clock(run, promised=1))
    stage.settle([item("gate-divergence-gain")], Ended(TRY_LATER, "out-of-memory", "the worker died"))
    assert run.refresh_seconds == 120.0
    assert {end["state"] for end in Journal(run.ledger).outcomes().values()} == {"failed"}


def test_a_refresh_is_told_in_words() -> None:
    assert told({**REPORT, "steps": 1}) == "refreshed from copy in 1 step, 5.1 s"


def test_time_for_all_that_is_less_than_for_one_is_refused(tmp_path: Path) -> None:
    world = make_strangers(tmp_path, ["loud"])
    allow_refresh(world, seconds_per_adapter=60, seconds_in_all=30)
    with pytest.raises(SettingsError, match=r"\[refresh\]: seconds_in_all: less than seconds_per_adapter"):
        load_migration(world.settings)
