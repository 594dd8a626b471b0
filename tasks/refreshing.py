"""Refreshes conversions that did not pass: each learns from source+adapter, and is staged as another conversion.

The models are those that conversions are scored on, borrowed from the same pool. A refreshed conversion is named by
the one that it goes on from and by all that is set for the refresh, so that the next run finds it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypedDict

from lorax.adapter import Adapter
from lorax.base_model import BaseModel
from lorax.base_pair import pairing
from lorax.checkpoint import Checkpoint
from lorax.correspondence import Matches
from lorax.improve import REFRESH, Improved, improved, refreshed_name, starts_from
from lorax.lowering import LoweredAdapter, lower_adapter
from lorax.refresh import Progress, RefreshSettings
from lorax.score_settings import ScoreSettings
from lorax.write import dialect_for
from tasks.bases import BaseFolder, candidates, open_base
from tasks.benches import ScoreTask, pool_of
from tasks.border import Ended, attempt
from tasks.conversion import Made, find_staged, identity, stage
from tasks.crash_points import AFTER_REFRESH_STAGED, crash_point
from tasks.device import device
from tasks.planning import PreparedPair, PreparedPlan, probe_settings
from tasks.plans import open_plan
from tasks.reading import read_stored
from tasks.survey import FoundFile
from tasks.ticks import tick

ZERO = "zero"
MOST_PROMPTS = 64
"""Different prompts that one adapter is learnt by."""


class RefreshItem(TypedDict):
    """A source adapter, and its staged conversion that did not pass; None where the pair's method gave none."""

    entry_key: str
    entry: dict[str, Any]
    files: list[FoundFile]
    conversion_id: str | None


class Refreshed(TypedDict):
    """One conversion after its refresh: where the result is staged and what it is, or why it ended.

    seconds: what it took just now; 0 where an earlier run had staged it.
    """

    entry_key: str
    conversion_id: str | None
    body: dict[str, Any] | None
    seconds: float
    ended: Ended | None


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """What all conversions of a shard share."""

    plans: Mapping[str, PreparedPlan]
    known: Sequence[BaseModel]
    source: Checkpoint
    target: Checkpoint
    folders: tuple[str, str]
    settings: RefreshSettings
    limits: dict[str, Any]
    conversions: Path
    dialect: str | None


def refresh_shard(
    items: Sequence[RefreshItem],
    *,
    pair: PreparedPair,
    zero: PreparedPlan,
    bases: Sequence[BaseFolder],
    probe: Mapping[str, Any],
    limits: Mapping[str, Any],
    conversions: str,
    dialect: str | None = None,
) -> list[Refreshed]:
    """Returns one record per conversion; what an earlier run has refreshed is found, not made again.

    zero: the pair's plan of that method; limits: `seconds` and `steps` of a refresh; dialect: what is written, None for
    the one that each adapter came in. A refresh starts from the best of what the pair's method, copy and zero give.
    """
    folders = {base["name"]: base for base in bases}
    work = _Work(
        plans={name: pair["plans"][name] for name in dict.fromkeys((pair["method"], "copy"))} | {ZERO: zero},
        known=candidates(bases),
        source=open_base(folders[pair["source"]]),
        target=open_base(folders[pair["target"]]),
        folders=(folders[pair["source"]]["path"], folders[pair["target"]]["path"]),
        settings=RefreshSettings(probe_settings(probe), **limits),
        limits=dict(limits),
        conversions=Path(conversions),
        dialect=dialect,
    )
    return [_refresh(work, item) for item in items]


def _refresh(work: _Work, item: RefreshItem) -> Refreshed:
    began = time.monotonic()
    rejected = item["conversion_id"]
    earlier = attempt(lambda: _would_be(work, item)) if rejected is None else rejected
    if isinstance(earlier, Ended):
        return _record(item, seconds=time.monotonic() - began, why=earlier)
    # What the catalogue says an adapter is called by decides what is drawn, and so what is learnt.
    name = refreshed_name(earlier, dataclasses.replace(work.settings, words=(*_triggers(item), *_examples(item))))
    staged = find_staged(work.conversions, name)
    if staged is not None:
        tick(REFRESH)
        return _record(item, name=name, body=staged)
    body = attempt(lambda: _make(work, item, name))
    seconds = time.monotonic() - began
    if isinstance(body, Ended):
        return _record(item, seconds=seconds, why=body)
    crash_point(AFTER_REFRESH_STAGED)
    return _record(item, name=name, body=body, seconds=seconds)


def _would_be(work: _Work, item: RefreshItem) -> str:
    """Returns the id that the conversion by the pair's method would have, had there been one."""
    adapter = read_stored(item["files"], item["entry"], work.known)
    plan = open_plan(next(iter(work.plans.values()))["path"])
    return identity(adapter, plan, work.target.base, dialect=work.dialect or dialect_for(adapter))


def _make(work: _Work, item: RefreshItem, name: str) -> dict[str, Any]:
    """Refreshes an adapter and stages the result; returns what its `conversion.json` holds."""
    began = time.monotonic()
    adapter = read_stored(item["files"], item["entry"], work.known)
    if words := _triggers(item):  # those of the catalogue are the ones that people type
        adapter = dataclasses.replace(adapter, trigger_words=words)
    lowered = lower_adapter(adapter, work.source.weight)
    found = _improved(work, adapter, lowered, _examples(item))
    made = Made(
        name=name,
        conversion=found.conversion,
        lowered=lowered,
        plan=found.plan,
        method=REFRESH,
        bases=(work.source.base, work.target.base),
        dialect=work.dialect or dialect_for(adapter),
    )
    facts = {
        "refreshed_from": item["conversion_id"],
        "refresh": {**found.facts(), "limits": work.limits, "seed": work.settings.probe.seed},
        "seconds": round(time.monotonic() - began, 3),
    }
    return stage(made, work.conversions, entry_key=item["entry_key"], called=item["entry"]["name"], facts=facts)


def _improved(work: _Work, adapter: Adapter, lowered: LoweredAdapter, examples: tuple[str, ...]) -> Improved:
    """Refreshes an adapter on the models that conversions are scored on, for the same words that they are asked."""
    matches = _matches(work.source, work.target)
    plans = {name: open_plan(plan["path"]) for name, plan in work.plans.items()}
    starts = starts_from(plans, lowered.adapter, matches, target=work.target.base)
    probe = work.settings.probe
    with pool_of(work.folders, device()).lent(ScoreTask(probe, ScoreSettings())) as bench:
        words = bench.words(adapter, examples, dataclasses.replace(probe, samples=MOST_PROMPTS))
        settings = dataclasses.replace(work.settings, words=tuple(dict.fromkeys(words.prompts)))
        return improved((bench.source, bench.target), adapter, starts, settings, matches, progress=_ticking())


@lru_cache(maxsize=2)
def _matches(source: Checkpoint, target: Checkpoint) -> Matches:
    """The pairing of two bases that stay open from shard to shard."""
    return pairing(source, target)


def _ticking() -> Progress:
    """Gives a report of progress that tells whoever watches how much of one refresh is done."""
    reached = 0.0

    def told(stage: str, done: int, total: int) -> None:
        nonlocal reached
        if stage == REFRESH and done > reached * total:
            tick(REFRESH, done / total - reached)
            reached = done / total

    return told


def _triggers(item: RefreshItem) -> tuple[str, ...]:
    return tuple(item["entry"].get("trigger_words") or ())


def _examples(item: RefreshItem) -> tuple[str, ...]:
    return tuple(item["entry"].get("prompts") or ())


def _record(
    item: RefreshItem,
    *,
    name: str | None = None,
    body: dict[str, Any] | None = None,
    seconds: float = 0.0,
    why: Ended | None = None,
) -> Refreshed:
    return Refreshed(entry_key=item["entry_key"], conversion_id=name, body=body, seconds=round(seconds, 3), ended=why)
