"""What became of every entry of a catalogue, for the table at the end, the report and Prefect's artifacts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.journal import Journal
from flows.states import FAILED, PASSED, PUBLISHED, QUARANTINED, REJECTED, SKIPPED, STATES

FIGURE = "divergence_gain"
CANDIDATES = ("converted", "copy", "random")
STYLES = {
    PUBLISHED: "bold green",
    PASSED: "green",
    REJECTED: "yellow",
    SKIPPED: "cyan",
    QUARANTINED: "magenta",
    FAILED: "bold red",
}
PLAIN_WIDTH = 120
"""Columns where there is no terminal to ask."""


@dataclass(frozen=True, slots=True)
class Row:
    """One entry: its state with the reason, and its divergence gains by candidate where it was scored.

    refreshed: what a refresh did, in words; empty where there was none.
    """

    entry_key: str
    name: str
    state: str
    reason: str
    text: str
    gains: dict[str, float | None]
    refreshed: str = ""


def rows_of(journal: Journal, work_keys: Sequence[tuple[str, str]]) -> list[Row]:
    """Returns one row per (entry key, work key) that has an outcome, in the order of states, then names."""
    outcomes, scores = journal.outcomes(), journal.scores()
    rows = [_row(key, outcomes[work], scores) for key, work in work_keys if work in outcomes]
    order = list(STATES)
    return sorted(rows, key=lambda row: (order.index(row.state), row.name.casefold(), row.entry_key))


def counts_of(rows: Sequence[Row]) -> dict[str, int]:
    """Returns how many entries are in each of the six states, zeros included."""
    found = Counter(row.state for row in rows)
    return {state: found[state] for state in STATES}


def print_summary(console: Console, rows: Sequence[Row]) -> None:
    """Prints the table of all entries and the counts per state, of refreshed ones apart."""
    console.print(_table(rows))
    print_counts(console, rows)
    refreshed = [row for row in rows if row.refreshed]
    if refreshed:
        found = ", ".join(f"{count} {state}" for state, count in counts_of(refreshed).items() if count)
        console.print(f"{len(refreshed)} of them refreshed: {found}")


def print_counts(console: Console, rows: Sequence[Row]) -> None:
    """Prints how many entries are in each state, on one line."""
    counts = Text("  ").join(
        Text(f"{state} {count}", style=STYLES[state] if count else "dim") for state, count in counts_of(rows).items()
    )
    console.print(counts)


def plain_table(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Returns the rows as plain values, as Prefect's table artifact wants them."""
    return [
        {
            "name": row.name,
            "state": row.state,
            "reason": row.reason,
            **{name: _number(row.gains, name) for name in CANDIDATES},
        }
        for row in rows
    ]


def console_for(stream: IO[str], *, plain_width: int = PLAIN_WIDTH) -> Console:
    """Returns a console on a stream, `plain_width` columns wide where the stream is no terminal."""
    console = Console(file=stream, highlight=False, soft_wrap=False)
    return console if console.is_terminal else Console(file=stream, highlight=False, width=plain_width)


def _row(entry_key: str, body: dict[str, Any], scores: dict[str, dict[str, Any]]) -> Row:
    figures = scores.get(str(body["conversion_id"]), {}).get("figures", {})
    gains = {name: figures[name].get(FIGURE, {}).get("value") for name in CANDIDATES if name in figures}
    refreshed = str(body.get("refreshed", ""))
    return Row(entry_key, str(body["name"]), body["state"], body["reason"], str(body["text"]), gains, refreshed)


def _table(rows: Sequence[Row]) -> Table:
    table = Table(title="divergence gain: 1 = as on the old base, 0 = as without the adapter", title_style="dim")
    table.add_column("name", no_wrap=True, overflow="ellipsis", max_width=40)
    table.add_column("state", no_wrap=True)
    table.add_column("reason", no_wrap=True)
    for name in CANDIDATES:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        gains = [_number(row.gains, name) for name in CANDIDATES]
        table.add_row(Text(row.name), Text(row.state, style=STYLES[row.state]), row.reason, *gains)
    return table


def _number(gains: dict[str, float | None], name: str) -> str:
    value = gains.get(name)
    return "" if value is None else f"{value:.2f}"
