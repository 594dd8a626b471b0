"""What a migration would do to each adapter, and why. Reads files where they lie; writes nothing but its own report."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from catalogs.errors import Stop
from catalogs.ledger import Fact, Ledger, open_reader
from catalogs.report import render_report, report_data_from_ledger
from flows.folders import Folders
from flows.journal import Journal
from flows.outcomes import outcome, outcome_of_ending
from flows.run_facts import new_run_id, run_started
from flows.settings import Migration, PairTable
from flows.states import PASSED, REJECTED, reasons
from flows.summary import STYLES, Row, counts_of, rows_of
from flows.to_do import Item, ToDo, base_folders, find_work, hub_of
from flows.unscored import not_runnable, require_runnable, why_not_scored
from lorax.prepare import key_for
from tasks.bases import open_base
from tasks.grouping import Candidate, group_adapters
from tasks.planning import PreparedPlan, find_plan, probe_settings
from tasks.publishing import find_published
from tasks.reading import fetch_shard

DRY_RUN = "dry-run"


@dataclass(frozen=True, slots=True)
class _Look:
    """What a dry run looks at."""

    migration: Migration
    folders: Folders
    journal: Journal


def dry_run(migration: Migration, folders: Folders, console: Console) -> int:
    """Shows what would become of every entry, and the path of the report; returns the exit status, 0."""
    require_runnable(migration)
    run_id = new_run_id()
    with _copy_of_ledger(folders, run_id) as ledger:
        look = _Look(migration, folders, Journal(ledger))
        todo = find_work(migration, folders, look.journal, remember=False)
        ledger.append_many([run_started(run_id, migration), *_seen(todo), *_expected(look, todo)])
        rows = rows_of(look.journal, todo.work_keys)
        report = folders.reports / f"{DRY_RUN}-{run_id}.html"
        data = report_data_from_ledger(
            ledger.reader(), run_id, data_folder=folders.data, reasons=reasons(), is_dry_run=True
        )
    render_report(data, report)
    settled = set(todo.settled)
    values = {
        "migration": migration.name,
        "states": counts_of(rows),
        "entries": [{**asdict(row), "settled": row.entry_key in settled} for row in rows],
        "report": str(report),
    }
    report.with_suffix(".json").write_text(json.dumps(values, indent=2, ensure_ascii=False), encoding="utf-8")
    _show(console, rows, settled)
    console.print(str(report), soft_wrap=True, markup=False)
    return 0


def _copy_of_ledger(folders: Folders, run_id: str) -> Ledger:
    """Returns a ledger in memory that holds what the one on disk holds, which stays untouched."""
    try:
        return Ledger.in_memory(open_reader(folders.data), run_id=run_id)
    except Stop:
        if folders.ledger.exists():
            raise
        return Ledger.in_memory(run_id=run_id)


def _seen(todo: ToDo) -> Iterator[Fact]:
    for item in todo.items:
        yield "entry_seen", item.key, {"entry": item.found["entry"], "decision": item.found["decision"]}


def _expected(look: _Look, todo: ToDo) -> Iterator[Fact]:
    """Yields the outcome to be expected for every entry that is not settled."""
    for item in todo.items:
        if item.found["ended"] is not None:
            yield outcome_of_ending(item, item.found["ended"])
    items = {item.key: item for item in todo.open_items}
    found = [item.found for item in items.values()]
    for record in fetch_shard(found, bases=base_folders(look.migration), store=None):
        items[record["entry_key"]].adapter = record["adapter"]
        if record["ended"] is not None:
            yield outcome_of_ending(items[record["entry_key"]], record["ended"])
    yield from _expected_of_adapters(look, todo, [item for item in items.values() if item.adapter is not None])


def _expected_of_adapters(look: _Look, todo: ToDo, items: Sequence[Item]) -> Iterator[Fact]:
    by_key = {item.key: item for item in items}
    described = [(item.key, item.description) for item in items]
    groups = group_adapters(
        [Candidate(entry_key=key, adapter_id=one["adapter_id"], base=one["base"]) for key, one in described],
        sources=[pair.source for pair in look.migration.pairs],
        settled=look.journal.standing_adapters(todo.settled),
    )
    for key, why in groups["ended"].items():
        yield outcome_of_ending(by_key[key], why)
    for pair in look.migration.pairs:
        plan = _plan_of(look, pair)
        done = _converted(look, plan)
        for key in groups["members"][pair.source]:
            yield _would_convert(look, by_key[key], pair, plan=plan, done=done)


def _plan_of(look: _Look, pair: PairTable) -> PreparedPlan | None:
    bases = {base["name"]: open_base(base) for base in base_folders(look.migration)}
    probe = probe_settings(look.migration.score.model_dump())
    key = key_for(bases[pair.source], bases[pair.target], method=pair.method, settings=pair.settings, probe=probe)
    return find_plan(look.folders.plans, key)


def _converted(look: _Look, plan: PreparedPlan | None) -> dict[str, str]:
    """Returns the conversions that this plan has made in earlier runs, by adapter id."""
    if plan is None:
        return {}
    known = look.journal.conversions().items()
    return {body["adapter_id"]: name for name, body in known if body["plan_id"] == plan["plan_id"]}


def _would_convert(
    look: _Look, item: Item, pair: PairTable, *, plan: PreparedPlan | None, done: Mapping[str, str]
) -> Fact:
    name = done.get(item.description["adapter_id"])
    steps = [
        f"would be converted from {pair.source} to {pair.target} by {pair.method}",
        "the plan is compiled already" if plan else "the plan has to be compiled",
    ]
    if name is not None:
        steps.append("an earlier run has converted it")
        if find_published([name], **hub_of(look.migration, look.folders)):
            steps.append("it is on the hub")
    if look.migration.refresh.allowed:
        longest = look.migration.refresh.seconds_per_adapter
        steps.append(f"would be refreshed for up to {longest:g} s where the gate does not open")
    if not item.found["decision"]["publish"]:
        steps.append("would not be published: " + "; ".join(text for _, text in item.found["decision"]["reasons"]))
    if unfit := not_runnable(look.migration, pair):
        return outcome(item, REJECTED, DRY_RUN, "; ".join([*steps, why_not_scored(unfit)]))
    return outcome(item, PASSED, DRY_RUN, "; ".join(steps))


def _show(console: Console, rows: Sequence[Row], settled: set[str]) -> None:
    table = Table(title="dry run: nothing was written but this report", title_style="dim")
    for column in ("name", "would be", "why"):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(
            Text(row.name),
            _words(row, settled),
            Text(row.text if row.reason == DRY_RUN else f"{row.reason}: {row.text}"),
        )
    console.print(table)
    waiting = sum(row.reason == DRY_RUN for row in rows)
    console.print(f"{waiting} would be converted, {len(settled)} are settled already, {len(rows)} in all")


def _words(row: Row, settled: set[str]) -> Text:
    if row.reason == DRY_RUN:
        return Text("converted", style="bold")
    said: dict[str, Any] = {"style": STYLES[row.state]}
    return Text(f"{row.state} (settled)" if row.entry_key in settled else row.state, **said)
