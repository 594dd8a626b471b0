"""What the gate does not let through goes to `refresh`, where the migration allows it, and is scored once more.

So does what the pair's method could not convert at all because it would harm, or because no shape fits.
The second score is taken on samples that the refresh has never seen: of another seed than the migration's own, which
refreshes draw by, so that neither what was learnt from nor what the best state was chosen by is scored on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from catalogs.ledger import Fact
from flows.outcomes import outcome, outcome_of_ending, verdict_on
from flows.run import Run
from flows.settings import Migration, PairTable
from flows.stages import paired, prepare_plans, score_conversions
from flows.states import REJECTED, state_of
from flows.to_do import Item, base_folders
from tasks.border import TRY_LATER, UNEXPECTED, Ended
from tasks.crash_points import AFTER_REFRESHED, crash_point
from tasks.planning import PreparedPair
from tasks.refresh import refresh
from tasks.refreshing import ZERO, RefreshItem

OTHER_CHANCE = 500_009
"""Added to the probe's seed for the second score; far from every number that the first one and a refresh add to it."""

BEYOND_REPAIR = frozenset({"gate-non-finite"})
"""Reasons of a verdict that no refresh can mend: outputs that are no numbers teach nothing."""

WITHOUT_A_PLAN = frozenset({"would-harm", "no-common-site"})
"""Reasons why an adapter was not converted that hold for plans only: a refresh starts from nothing where it has to."""


def may_be_refreshed(migration: Migration, prepared: PreparedPair, item: Item) -> bool:
    """Tells of an item that did not pass, or was not converted, whether a refresh is allowed and could mend it.

    Not where a base cannot be run. A verdict that is uncertain counts as one that failed.
    """
    if not migration.refresh.allowed or prepared["not_runnable"]:
        return False
    if item.ended is not None:
        return item.ended.reason in WITHOUT_A_PLAN
    return item.judged is not None and not {reason for reason, _ in item.judged["reasons"]} & BEYOND_REPAIR


def refresh_rejected(run: Run, pair: PairTable, prepared: PreparedPair, items: Sequence[Item]) -> list[Item]:
    """Refreshes those of a pair's items that were left open, and scores what came of it; returns those that pass now.

    The others are settled: rejected again, failed, or later, where the run has no more time for refreshes.
    """
    waiting = [
        item
        for item in items
        if not (item.judged or {}).get("passed") and may_be_refreshed(run.migration, prepared, item)
    ]
    if not waiting:
        return []
    zero = prepare_plans(run, pair, method=ZERO)
    if isinstance(zero, Ended):
        run.record([outcome_of_ending(item, zero) for item in waiting])
        return []
    stage = _Refreshing(run, _Clock(run))
    later = run.shards(
        "refresh",
        refresh,
        waiting,
        size=1,
        arguments=lambda shard: {
            **stage.begun(shard),
            "pair": prepared,
            "zero": zero["plans"][ZERO],
            "dialect": pair.dialect,
        },
        settle=stage.settle,
        admits=stage.clock.admits,
    )
    run.record([_later(run.migration, item) for item in later])
    _tell(run, stage, later)
    probe = run.migration.scoring()
    return score_conversions(
        run,
        prepared,
        stage.refreshed,
        probe={**probe, "seed": probe["seed"] + OTHER_CHANCE},
        remade=stage.remade,
    )


@dataclass(slots=True)
class _Clock:
    """The time for refreshes that is left in a run: one begins only where the longest that it may take is left."""

    run: Run
    promised: int = 0

    def admits(self) -> bool:
        """Tells whether one more may begin."""
        table = self.run.migration.refresh
        taken = self.run.refresh_seconds + (self.promised + 1) * table.seconds_per_adapter
        return not table.seconds_in_all or taken <= table.seconds_in_all

    def ended(self, seconds: float) -> None:
        """Notes what one that had begun has taken."""
        self.promised -= 1
        self.run.refresh_seconds += seconds


@dataclass(slots=True)
class _Refreshing:
    """The stage itself: what it asks of each task run, and what it notes of each that has ended."""

    run: Run
    clock: _Clock
    refreshed: list[Item] = field(default_factory=list)
    remade: set[str] = field(default_factory=set)

    def begun(self, shard: Sequence[Item]) -> dict[str, Any]:
        """Takes time for a shard and returns its arguments."""
        self.clock.promised += 1
        migration = self.run.migration
        return {
            "items": [_to_refresh(item) for item in shard],
            "bases": base_folders(migration),
            "probe": migration.score.model_dump(),
            "limits": {"seconds": migration.refresh.seconds_per_adapter, "steps": migration.refresh.steps},
            "conversions": str(self.run.folders.conversions),
        }

    def settle(self, shard: Sequence[Item], records: list[Any] | Ended) -> None:
        """Notes conversions that are new, and how the items ended that have none."""
        limit = self.run.migration.refresh.seconds_per_adapter
        known = self.run.journal.conversions()
        facts: list[Fact] = []
        for item, record in paired(shard, records):
            self.clock.ended(record.get("seconds", limit))
            if record["ended"] is not None:
                facts.append(_not_refreshed(item, record["ended"]))
                continue
            name, body = str(record["conversion_id"]), record["body"]
            if known.get(name, {}).get("weights_sha256_out") != body["weights_sha256_out"]:
                facts.append(("converted", name, {**body, "entry_key": item.key}))
                self.remade.add(name)
            item.conversion_id, item.refreshed, item.ended = name, told(body["refresh"]), None
            self.refreshed.append(item)
        self.run.record(facts)
        crash_point(AFTER_REFRESHED)


def told(facts: Mapping[str, Any]) -> str:
    """Words what a refresh did."""
    steps, seconds = facts["steps"], facts["seconds"]
    return f"refreshed from {facts['started_from']} in {steps} step{'' if steps == 1 else 's'}, {seconds:.1f} s"


def _to_refresh(item: Item) -> RefreshItem:
    return RefreshItem(
        entry_key=item.key, entry=item.found["entry"], files=item.files, conversion_id=item.conversion_id
    )


def _without(item: Item) -> tuple[str, str, str]:
    """State, reason and words of an item that no refresh has changed anything about."""
    if item.ended is not None:
        return state_of(item.ended), item.ended.reason, item.ended.text
    return (REJECTED, *verdict_on(item))


def _not_refreshed(item: Item, why: Ended) -> Fact:
    """What was said before stands, unless what went wrong may work another time."""
    if why.family in {TRY_LATER, UNEXPECTED}:
        return outcome_of_ending(item, why)
    state, reason, text = _without(item)
    return outcome(item, state, reason, f"{text}; could not be refreshed: {why.text} ({why.reason})")


def _later(migration: Migration, item: Item) -> Fact:
    state, reason, text = _without(item)
    spent = f"the {migration.refresh.seconds_in_all:g} s of [refresh] seconds_in_all are spent, the next run goes on"
    return outcome(item, state, reason, f"{text}; not refreshed yet: {spent}", is_later=True)


def _tell(run: Run, stage: _Refreshing, later: Sequence[Item]) -> None:
    """Says what time went into refreshes, and how many are left."""
    limit = run.migration.refresh.seconds_in_all
    spent = f"{run.refresh_seconds:.1f} s{f' of {limit:g} s' if limit else ''} spent on refreshes"
    left = f"; {len(later)} left for the next run" if later else ""
    run.watcher.say(f"{len(stage.refreshed)} refreshed, {spent}{left}")
