"""The import contracts of pyproject.toml hold, and each of them breaks on a planted violation."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.architecture.sources import PACKAGES, REPOSITORY

LINT = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-cache"]
LAYERS = "Arrows run one way: flows, tasks, then the two libraries, which never see each other"
PREFECT = "Prefect stays in flows and tasks"
OFFLINE = "lorax touches no network and no database"
NO_TENSOR = "catalogs touches no tensor"
SIBLINGS = "A plug-in never imports its sibling"


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs import-linter over the packages in a folder with the contracts of its pyproject.toml."""
    return subprocess.run(LINT, cwd=folder, capture_output=True, check=False, text=True, env={"COLUMNS": "400"})


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Returns a copy of the four packages and their contracts, free to be spoiled."""
    for package in PACKAGES:
        shutil.copytree(REPOSITORY / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_contracts_hold() -> None:
    run = lint(REPOSITORY)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("tasks/bases.py", "import flows.settings", LAYERS),
        ("catalogs/entry.py", "import lorax.errors", LAYERS),
        ("lorax/errors.py", "import catalogs.errors", LAYERS),
        ("lorax/errors.py", "def late():\n    import prefect", PREFECT),
        ("catalogs/store.py", "from prefect import task", PREFECT),
        ("lorax/plan.py", "import requests", OFFLINE),
        ("lorax/plan.py", "from pandas import DataFrame", OFFLINE),
        ("catalogs/policy.py", "import torch.nn", NO_TENSOR),
        ("lorax/methods/copy.py", "from lorax.methods import zero", SIBLINGS),
        ("catalogs/hubs/folder.py", "import catalogs.hubs.another", SIBLINGS),
    ],
)
def test_a_planted_violation_breaks_its_contract(copy: Path, file: str, line: str, contract: str) -> None:
    (copy / "catalogs/hubs/another.py").write_text('"""A second hub, so that the first has a sibling."""\n')
    with (copy / file).open("a", encoding="utf-8") as spoiled:
        spoiled.write(f"\n{line}\n")

    run = lint(copy)

    verdicts = dict(text.rsplit(" ", 1) for text in run.stdout.splitlines() if text.endswith((" KEPT", " BROKEN")))
    assert run.returncode != 0
    assert [name for name, verdict in verdicts.items() if verdict == "BROKEN"] == [contract]


def test_every_plug_in_folder_is_under_the_sibling_contract() -> None:
    """A plug-in folder is one whose __init__ collects what its modules declare."""
    contracts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    covered = next(contract["modules"] for contract in contracts if contract["name"] == SIBLINGS)
    folders = [
        ".".join(init.parent.relative_to(REPOSITORY).parts) + ".*"
        for package in PACKAGES
        for init in sorted((REPOSITORY / package).rglob("__init__.py"))
        if "collect(__name__" in init.read_text(encoding="utf-8")
    ]
    assert len(folders) >= 8
    assert set(folders) == set(covered)
