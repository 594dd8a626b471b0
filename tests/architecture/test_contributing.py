"""The worked example of CONTRIBUTING.md works as it is written: one file, and the suite takes it up."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.sources import PACKAGES, REPOSITORY


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a copy of the checkout, without its examples, in which the example's file has been written."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in (*PACKAGES, "bench", "scripts", "tests"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(REPOSITORY / "docs", folder / "docs")
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    example = re.search(r"`(lorax/methods/\w+\.py)`:\n\n```python\n(.*?)```", text, re.DOTALL)
    assert example is not None
    (folder / example[1]).write_text(example[2], encoding="utf-8")
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *arguments], cwd=folder, capture_output=True, check=False, text=True)


def test_the_example_passes_the_conformance_suite(copy: Path) -> None:
    found = run(copy, "pytest", "tests/conformance/test_methods.py", "-k", "output-space", "-p", "no:cacheprovider")

    assert found.returncode == 0, found.stdout
    assert int(re.findall(r"(\d+) passed", found.stdout)[-1]) >= 5


def test_the_example_passes_the_linter(copy: Path) -> None:
    example = "lorax/methods/output_space.py"
    for command in (["check"], ["format", "--check"]):
        found = run(copy, "ruff", *command, "--no-cache", example)
        assert found.returncode == 0, found.stdout


def test_the_example_has_a_row_in_the_docs_once_they_are_written_anew(copy: Path) -> None:
    page = copy / "docs" / "methods.md"
    assert "`output-space`" not in page.read_text(encoding="utf-8")

    subprocess.run([sys.executable, "scripts/generate_docs.py"], cwd=copy, check=True, capture_output=True)

    assert "| `output-space` |" in page.read_text(encoding="utf-8")
