from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from bench.fidelity_table import COLUMNS, Cell, interval, rows_of
from scripts import benchmarks_page

CELL = Cell(
    example="text",
    source="v1",
    target="v2",
    relation="later checkpoint",
    task="json",
    tuned=False,
    method="copy",
    control=False,
    lift=0.8,
    error=0.01,
    drift=0.5,
    native_drift=1.0,
    seconds=0.5,
    plan_seconds=1.0,
    retraining_seconds=50.0,
)
CELLS = [
    CELL,
    replace(CELL, task="rot13", lift=0.6),
    replace(CELL, task="shouting", lift=0.1, tuned=True),
    replace(CELL, method="auto", lift=0.9),
    replace(CELL, method="random", lift=-0.06, control=True),
]


def test_a_row_is_about_the_adapters_that_nothing_was_tuned_on() -> None:
    best, copy, control = (dict(zip(COLUMNS, row, strict=True)) for row in rows_of(CELLS))

    assert [row["method"] for row in (best, copy, control)] == ["auto", "copy", "random"]
    assert (copy["R"], copy["worst"], copy["best"], copy["R, tuned half"]) == (".70", ".60", ".80", ".10")
    assert (copy["drift / native's"], copy["s"], copy["than retraining"]) == (".50", "0.500", "100x faster")
    assert control["R"] == "-.06"
    assert rows_of([replace(CELL, lift=-0.001)])[0][1] == ".00"


def test_the_interval_holds_the_mean_and_is_as_wide_as_the_adapters_lie_apart() -> None:
    low, high = interval(CELLS[:2])
    assert 0.57 < low < 0.7 < high < 0.83

    alone = interval(CELLS[:1])
    assert alone[1] - alone[0] == pytest.approx(4 * 0.01, rel=0.2)  # nothing but the error over held-out samples


def test_the_page_has_a_table_for_each_pair_and_names_what_carries_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmarks_page, "RESULTS", tmp_path)
    body = {"made_with": {"torch": "2"}, "nothing": [["v2", "lora-x"]], "cells": [asdict(cell) for cell in CELLS]}
    (tmp_path / "fidelity.json").write_text(json.dumps(body))
    table = {"title": "A", "columns": ["x|y"], "rows": [["1"]]}
    (tmp_path / "apply.json").write_text(
        json.dumps({"title": "Apply", "command": "python b", "about": "b.", "made_with": {"n": "1"}, "tables": [table]})
    )

    text = benchmarks_page.page()

    assert "### v1 → v2: later checkpoint" in text
    assert "| *random* | -.06 |" in text
    assert "No site of these adapters fits the target by `lora-x`." in text
    assert "text: json, rot13" in text
    assert "## Apply\n\n`python b`\n\nb." in text
    assert "| x\\|y |" in text


def test_the_page_says_so_little_when_nothing_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks_page, "RESULTS", tmp_path)
    assert benchmarks_page.page() == benchmarks_page.OPENING
