"""Answers about what was done, from the ledger alone: status, queries, traces. Imports neither torch nor Prefect."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from catalogs.errors import NOT_SCORED, Stop
from catalogs.ledger import Reader, open_reader
from catalogs.queries import list_queries, run_query
from catalogs.trace import trace
from flows.folders import Folders
from flows.settings import data_folder
from flows.states import STATES
from flows.summary import STYLES, console_for

UNLIMITED = 100_000
"""Columns for answers that go into a pipe: nothing is cut off there."""
SNAPSHOT_NOTE = "a migration is running: this is the ledger's last snapshot"


def show_status(data: Path | None, *, as_json: bool) -> None:
    """Prints how many entries are in which state, the runs, and the paths of ledger and report."""
    values = status_of(Folders(data_folder(data)))
    if as_json:
        _print_json(values)
        return
    console = console_for(sys.stdout)
    if values["is_snapshot"]:
        console.print(SNAPSHOT_NOTE, style="dim")
    for state, meaning in STATES.items():
        console.print(
            Text.assemble((f"{values['states'][state]:6d} ", "bold"), (f"{state:<12}", STYLES[state]), meaning)
        )
    if values["not_scored"]:
        console.print(f"{values['not_scored']:6d} of the rejected were never scored: lorax query not-scored")
    console.print(f"runs    {values['runs']['total']} ({values['runs']['unfinished']} cut short or running)")
    console.print(f"ledger  {values['ledger']}", soft_wrap=True)
    console.print(f"report  {values['report'] or 'none yet'}", soft_wrap=True)


def status_of(folders: Folders) -> dict[str, Any]:
    """Returns the status of a data folder as plain values; every state is there, also with zero entries."""
    states = dict.fromkeys(STATES, 0)
    runs: dict[str, Any] = {"total": 0, "unfinished": 0, "last": None}
    not_scored = 0
    is_snapshot = False
    if _has_ledger(folders):
        reader = open_reader(folders.data)
        is_snapshot = reader.is_snapshot
        for row in reader.rows("SELECT state, count(*) AS entries FROM states GROUP BY state"):
            states[str(row["state"])] = int(str(row["entries"]))
        [counted] = reader.rows("SELECT count(*) AS entries FROM states WHERE reason = ?", [NOT_SCORED])
        not_scored = int(str(counted["entries"]))
        runs = _runs(reader)
    report = folders.latest_report
    return {
        "states": states,
        "not_scored": not_scored,
        "runs": runs,
        "report": str(report) if report.exists() else None,
        "ledger": str(folders.ledger),
        "is_snapshot": is_snapshot,
    }


def show_queries(*, as_json: bool) -> None:
    """Prints the queries that have a name."""
    queries = list_queries()
    if as_json:
        _print_json([{"name": one.name, "title": one.title, "about": one.about} for one in queries])
        return
    table = Table("name", "question", "about")
    for one in queries:
        table.add_row(one.name, one.title, one.about)
    console_for(sys.stdout).print(table)


def show_answer(question: str, data: Path | None, *, as_json: bool) -> None:
    """Prints the answer to a query or an SQL statement that only reads."""
    reader = open_reader(Folders(data_folder(data)).data)
    frame = run_query(reader, question)
    if as_json:
        _print_json(json.loads(frame.to_json(orient="records", date_format="iso")))
        return
    table = Table()
    for column in frame.columns:
        table.add_column(str(column), overflow="fold")
    for row in frame.astype(object).where(frame.notna(), None).itertuples(index=False):
        table.add_row(*(_cell(value) for value in row))
    console = console_for(sys.stdout, plain_width=UNLIMITED)
    console.print(table)
    console.print(f"{len(frame)} rows" + (f"; {SNAPSHOT_NOTE}" if reader.is_snapshot else ""), style="dim")


def show_trace(wanted: str, data: Path | None, *, as_json: bool) -> None:
    """Prints the way from a file or an id back to its source."""
    found = trace(open_reader(Folders(data_folder(data)).data), wanted)
    if as_json:
        _print_json(found.to_json())
        return
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True, markup=False)
    for line in found.lines():
        console.print(line)


def _has_ledger(folders: Folders) -> bool:
    try:
        open_reader(folders.data)
    except Stop:
        if folders.ledger.exists():
            raise
        return False
    return True


def _runs(reader: Reader) -> dict[str, Any]:
    rows = reader.rows("SELECT run_id, migration, started_at, finished_at, progress FROM runs ORDER BY started_at")
    last = {key: None if value is None else str(value) for key, value in rows[-1].items()} if rows else None
    return {"total": len(rows), "unfinished": sum(row["progress"] != "finished" for row in rows), "last": last}


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _print_json(values: object) -> None:
    sys.stdout.write(json.dumps(values, indent=2, ensure_ascii=False, default=str) + "\n")
