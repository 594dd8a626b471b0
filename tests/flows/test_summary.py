from __future__ import annotations

import io

import pytest
from rich.console import Console

from catalogs.ledger import Ledger
from flows.journal import Journal
from flows.states import STATES
from flows.summary import Row, console_for, counts_of, plain_table, print_summary, rows_of


def outcome(name: str, state: str, *, conversion_id: str | None = None) -> dict[str, object]:
    return {
        "work_key": name,
        "name": name,
        "state": state,
        "reason": "gate-passed",
        "text": "",
        "conversion_id": conversion_id,
    }


@pytest.fixture
def rows() -> list[Row]:
    figures = {name: {"divergence_gain": {"value": value}} for name, value in (("converted", 0.75), ("copy", None))}
    with Ledger.in_memory() as ledger:
        ledger.append_many(
            [
                ("outcome", "c:b", outcome("b", "failed")),
                ("outcome", "c:a", outcome("a", "published", conversion_id="id")),
                ("scored", "id", {"figures": figures}),
            ]
        )
        return rows_of(Journal(ledger), [("c:a", "a"), ("c:b", "b"), ("c:c", "not decided yet")])


def test_rows_come_in_the_order_of_states_with_their_gains(rows: list[Row]) -> None:
    assert [(row.name, row.state, row.gains) for row in rows] == [
        ("a", "published", {"converted": 0.75, "copy": None}),
        ("b", "failed", {}),
    ]


def test_all_six_states_are_counted(rows: list[Row]) -> None:
    assert counts_of(rows) == {**dict.fromkeys(STATES, 0), "published": 1, "failed": 1}


def test_the_table_is_readable_without_a_terminal(rows: list[Row]) -> None:
    stream = io.StringIO()
    print_summary(console_for(stream), rows)
    shown = stream.getvalue()
    assert "0.75" in shown
    assert shown.splitlines()[-1] == "published 1  passed 0  rejected 0  skipped 0  quarantined 0  failed 1"
    assert "\x1b" not in shown


def test_how_refreshed_ones_ended_is_counted_apart(rows: list[Row]) -> None:
    stream = io.StringIO()
    learnt = Row("c:d", "d", "published", "gate-passed", "", {}, "refreshed from copy in 24 steps, 5.1 s")
    print_summary(console_for(stream), [*rows, learnt])
    assert stream.getvalue().splitlines()[-1] == "1 of them refreshed: 1 published"


def test_names_from_strangers_are_shown_as_they_are() -> None:
    stream = io.StringIO()
    row = Row("c:a", "[red]not markup[/red]", "published", "gate-passed", "", {})
    print_summary(Console(file=stream, width=100), [row])
    assert "[red]not markup[/red]" in stream.getvalue()


def test_prefect_gets_plain_values(rows: list[Row]) -> None:
    assert plain_table(rows)[0] == {
        "name": "a",
        "state": "published",
        "reason": "gate-passed",
        "converted": "0.75",
        "copy": "",
        "random": "",
    }
