"""The stages of a migration up to the verdict. Each runs a task over items and notes in the ledger what came of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from catalogs.ledger import Fact
from flows.journal import changed
from flows.outcomes import outcome, outcome_of_ending, verdict_on
from flows.run import Run
from flows.settings import PairTable
from flows.states import REJECTED
from flows.to_do import Item, ToDo, base_folders, divide, settings_identity, survey_arguments
from tasks.border import Ended
from tasks.convert import convert
from tasks.crash_points import (
    AFTER_CONVERTED,
    AFTER_CRAWL,
    AFTER_PLANS,
    AFTER_READ,
    AFTER_SCORED,
    crash_point,
)
from tasks.crawl import crawl
from tasks.fetch import fetch
from tasks.group import group
from tasks.grouping import Candidate
from tasks.planning import PreparedPair
from tasks.prepare import prepare
from tasks.score import score
from tasks.scoring import ScoreItem, score_key

READ_SHARD = 16
CONVERT_SHARD = 16
SCORE_SHARD = 4
"""Adapters per task run. Scoring takes seconds per adapter, so its shards are small: a kill loses at most one."""


def crawl_catalogue(run: Run) -> ToDo:
    """Lists the catalogue and returns what needs work. Entries that policy or their bytes end are settled at once."""
    found = run.here("crawl", crawl, **survey_arguments(run.migration, run.folders, remember=True))
    with run.watch.measuring("crawl"):
        todo = divide(found, settings_identity(run.migration), settled=run.journal.settled())
    if not todo.has_work:
        return todo
    seen: list[Fact] = [
        ("entry_seen", one["entry_key"], {"entry": one["entry"], "decision": one["decision"]}) for one in found
    ]
    over = [outcome_of_ending(item, item.found["ended"]) for item in todo.items if item.found["ended"] is not None]
    run.record([*changed(seen, run.journal.entries()), *over])
    crash_point(AFTER_CRAWL)
    return todo


def read_adapters(run: Run, items: Sequence[Item]) -> list[Item]:
    """Stores and reads the items' files; returns those that hold an adapter."""
    stored, read = run.journal.stored_files(), run.journal.read_adapters()

    def settle(shard: Sequence[Item], records: list[Any] | Ended) -> None:
        facts: list[Fact] = []
        for item, record in paired(shard, records):
            item.files, item.adapter = record.get("files", []), record.get("adapter")
            facts += _stored(item, stored)
            if item.adapter is not None:
                facts += _read(item, read)
            else:
                facts.append(outcome_of_ending(item, record["ended"]))
        run.record(facts)
        crash_point(AFTER_READ)

    run.shards(
        "read",
        fetch,
        items,
        size=READ_SHARD,
        arguments=lambda shard: {
            "items": [item.found for item in shard],
            "bases": base_folders(run.migration),
            "store": str(run.folders.store),
        },
        settle=settle,
    )
    return [item for item in items if item.adapter is not None]


def group_by_pair(run: Run, items: Sequence[Item], settled: Mapping[str, Any]) -> list[tuple[PairTable, list[Item]]]:
    """Returns each pair with the items that start from its source; the others are settled."""
    if not items:
        return []
    by_key = {item.key: item for item in items}
    known = [
        Candidate(entry_key=item.key, adapter_id=item.description["adapter_id"], base=item.description["base"])
        for item in items
    ]
    groups = run.here(
        "group",
        group,
        adapters=known,
        sources=[pair.source for pair in run.migration.pairs],
        settled=run.journal.standing_adapters(settled),
    )
    run.record([outcome_of_ending(by_key[key], why) for key, why in sorted(groups["ended"].items())])
    members = groups["members"]
    return [
        (pair, [by_key[key] for key in members[pair.source]]) for pair in run.migration.pairs if members[pair.source]
    ]


def prepare_plans(run: Run, pair: PairTable, *, method: str | None = None) -> PreparedPair | Ended:
    """Returns the plans of a pair, its own and the controls', or why the worker that makes them failed.

    method: one to take in place of the pair's own.
    """
    bases = {base["name"]: base for base in base_folders(run.migration)}
    prepared: PreparedPair | Ended = run.elsewhere(
        "plan",
        prepare,
        source=bases[pair.source],
        target=bases[pair.target],
        method=method or pair.method,
        settings={} if method else pair.settings,
        probe=run.migration.score.model_dump(),
        plans=str(run.folders.plans),
    )
    if isinstance(prepared, Ended):
        return prepared
    known = run.journal.plan_ids()
    alike = json.loads(Path(prepared["similarity"]).read_bytes()) if prepared["similarity"] else []
    run.record(
        [
            ("plan_compiled", plan["plan_id"], {**plan, "similarity": alike if plan["method"] == pair.method else []})
            for plan in prepared["plans"].values()
            if plan["plan_id"] not in known
        ]
    )
    crash_point(AFTER_PLANS)
    return prepared


def nothing_more(_item: Item) -> bool:
    """Says that an item that does not go on to the next stage is at its end."""
    return False


def convert_adapters(
    run: Run,
    prepared: PreparedPair,
    items: Sequence[Item],
    *,
    dialect: str | None = None,
    goes_on: Callable[[Item], bool] = nothing_more,
) -> list[Item]:
    """Converts the items with the pair's plan; returns those that have a staged conversion.

    dialect: what they are written in; None for the one that each adapter came in; goes_on: tells of an item without a
    conversion whether it is left open, for a further stage to settle.
    """
    known = run.journal.conversions()

    def settle(shard: Sequence[Item], records: list[Any] | Ended) -> None:
        facts: list[Fact] = []
        for item, record in paired(shard, records):
            item.conversion_id = record.get("conversion_id")
            if item.conversion_id is None:
                item.ended = record["ended"]
                facts += [] if goes_on(item) else [outcome_of_ending(item, record["ended"])]
            elif item.conversion_id not in known:
                facts.append(("converted", item.conversion_id, {**record["body"], "entry_key": item.key}))
        run.record(facts)
        crash_point(AFTER_CONVERTED)

    run.shards(
        "convert",
        convert,
        items,
        size=CONVERT_SHARD,
        arguments=lambda shard: {
            "items": [{"entry_key": one.key, "entry": one.found["entry"], "files": one.files} for one in shard],
            "plan": prepared["plans"][prepared["method"]],
            "bases": base_folders(run.migration),
            "conversions": str(run.folders.conversions),
            "dialect": dialect,
        },
        settle=settle,
    )
    return [item for item in items if item.conversion_id is not None]


def score_conversions(
    run: Run,
    prepared: PreparedPair,
    items: Sequence[Item],
    *,
    goes_on: Callable[[Item], bool] = nothing_more,
    probe: Mapping[str, Any] | None = None,
    remade: Container[str] = (),
) -> list[Item]:
    """Scores and judges the items' conversions; returns those that passed. Figures of earlier runs are used again.

    goes_on: tells of one that did not pass whether it is left open, for a further stage to settle; probe: another one
    than the migration's own, for what was refreshed; remade: conversions that earlier figures are not about.
    """
    refreshed = probe is not None
    probe = probe or run.migration.scoring()
    key = score_key(prepared, probe=probe)
    cards = {
        name: body for name, body in run.journal.scores().items() if body.get("score_key") == key and name not in remade
    }
    verdicts = run.journal.verdicts()

    def settle(shard: Sequence[Item], records: list[Any] | Ended) -> None:
        facts: list[Fact] = []
        for item, record in paired(shard, records):
            name = str(item.conversion_id)
            item.scored, item.judged = record.get("scored") or cards.get(name), record.get("judged")
            if record.get("scored") is not None:
                facts.append(("scored", name, record["scored"]))
            if item.judged is None:
                facts.append(outcome_of_ending(item, record["ended"]))
                continue
            facts += changed([("judged", name, item.judged)], verdicts)
            if not item.judged["passed"] and not goes_on(item):
                facts.append(outcome(item, REJECTED, *verdict_on(item)))
        run.record(facts)
        crash_point(AFTER_SCORED)

    run.shards(
        "score",
        score,
        items,
        size=SCORE_SHARD,
        arguments=lambda shard: {
            "items": [_to_score(item, cards, refreshed=refreshed) for item in shard],
            "pair": prepared,
            "bases": base_folders(run.migration),
            "probe": probe,
            "gate": run.migration.gate.model_dump(),
            "conversions": str(run.folders.conversions),
            "images": str(run.folders.images),
        },
        settle=settle,
    )
    return [item for item in items if item.judged is not None and item.judged["passed"]]


def _to_score(item: Item, cards: Mapping[str, dict[str, Any]], *, refreshed: bool) -> ScoreItem:
    name = str(item.conversion_id)
    return ScoreItem(
        entry_key=item.key,
        entry=item.found["entry"],
        files=item.files,
        conversion_id=name,
        card=cards.get(name),
        refreshed=refreshed,
    )


def _stored(item: Item, known: set[tuple[str, str]]) -> list[Fact]:
    return [
        ("file_stored", file["sha256"], {"entry_key": item.key, "size": file["size"], "role": file["role"]})
        for file in item.files
        if (file["sha256"], item.key) not in known
    ]


def _read(item: Item, known: Mapping[tuple[str, str], dict[str, Any]]) -> list[Fact]:
    adapter = item.description
    weights = next(file["sha256"] for file in item.files if file["role"] == "weights")
    body = {"entry_key": item.key, "file_sha256": weights, **adapter}
    return (
        []
        if known.get((adapter["weights_sha256"], item.key)) == body
        else [("adapter_read", adapter["weights_sha256"], body)]
    )


def paired(shard: Sequence[Item], records: list[Any] | Ended) -> list[tuple[Item, dict[str, Any]]]:
    """Returns each item with its record; with one ending for all where the whole shard failed."""
    if isinstance(records, Ended):
        return [(item, {"ended": records}) for item in shard]
    return list(zip(shard, records, strict=True))
