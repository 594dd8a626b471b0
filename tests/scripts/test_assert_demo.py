"""The check of the demo has to see what it is there for."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def script(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("assert_demo", repository / "scripts" / "assert_demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def rows(script: ModuleType) -> list[dict[str, Any]]:
    """Returns states as they should be: every special file, and two sound ones."""
    right = {**script.SPECIAL, "bold.safetensors": ("published", "gate-passed"), "thin": ("rejected", "gate-worse")}
    return [{"entry_id": path, "state": state, "reason": why, "text": ""} for path, (state, why) in right.items()]


def expected(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(row["entry_id"] for row in rows)


def test_the_right_states_pass(script: ModuleType, rows: list[dict[str, Any]]) -> None:
    assert script.problems_of(rows, expected(rows)) == []


def test_an_entry_without_a_state_is_seen(script: ModuleType, rows: list[dict[str, Any]]) -> None:
    [problem] = script.problems_of(rows[:-1], expected(rows))
    assert problem.startswith("thin: has 0 states")


def test_an_entry_with_two_states_is_seen(script: ModuleType, rows: list[dict[str, Any]]) -> None:
    [problem] = script.problems_of([*rows, rows[-1]], expected(rows))
    assert problem.startswith("thin: has 2 states")


@pytest.mark.parametrize("path", ["old_pickle.pt", "bold.safetensors"])
def test_a_failed_entry_is_seen(script: ModuleType, rows: list[dict[str, Any]], path: str) -> None:
    for row in rows:
        if row["entry_id"] == path:
            row["state"] = "failed"
    [problem] = script.problems_of(rows, expected(rows))
    assert problem.startswith(f"{path}: is failed")


def test_a_bad_file_with_the_wrong_reason_is_seen(script: ModuleType, rows: list[dict[str, Any]]) -> None:
    rows[0]["reason"] = "unreadable"
    [problem] = script.problems_of(rows, expected(rows))
    assert "(unreadable), expected quarantined non-finite" in problem


def test_the_catalogue_of_the_example_holds_every_special_file(script: ModuleType) -> None:
    assert set(script.SPECIAL) <= set(script.expected_entries())
