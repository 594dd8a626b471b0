from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.command_line import app
from tests.stand_ins.small_world import GOOD, SmallWorld


@pytest.fixture
def planned(world: SmallWorld) -> tuple[SmallWorld, str, dict[str, Any]]:
    """Returns a migration after a dry run, what was printed, and what its JSON report says."""
    run = CliRunner().invoke(app, ["migrate", str(world.settings), "--data", str(world.data), "--dry-run"])
    assert run.exit_code == 0, run.output
    [report] = (world.data / "reports").glob("*.json")
    return world, run.output, json.loads(report.read_text())


def test_it_writes_its_own_report_and_nothing_else(planned: tuple[SmallWorld, str, dict[str, Any]]) -> None:
    world, _, values = planned
    written = sorted(path for path in world.data.rglob("*") if path.is_file())
    html = Path(values["report"])
    assert written == sorted([html, html.with_suffix(".json")])
    assert html.name.startswith("dry-run-")


def test_it_says_of_every_entry_what_would_happen_and_why(planned: tuple[SmallWorld, str, dict[str, Any]]) -> None:
    _, printed, values = planned
    said = {entry["name"]: (entry["state"], entry["reason"]) for entry in values["entries"]}
    assert said == {
        **dict.fromkeys((*GOOD, "no_terms"), ("passed", "dry-run")),
        "alpha_again": ("skipped", "duplicate"),
        "forbidden": ("skipped", "no-derivatives"),
        "other_base": ("skipped", "other-base"),
        "cut": ("quarantined", "truncated"),
    }
    texts = {entry["name"]: entry["text"] for entry in values["entries"]}
    assert "from tiny-v1 to tiny-v2 by copy; the plan has to be compiled" in texts["alpha"]
    assert "would not be published" in texts["no_terms"]
    assert "4 would be converted, 0 are settled already, 8 in all" in printed


def test_its_last_line_is_the_path_of_the_report(planned: tuple[SmallWorld, str, dict[str, Any]]) -> None:
    _, printed, values = planned
    assert printed.splitlines()[-1] == values["report"]
