"""Module names that would shadow something, and packages that would come from somewhere else."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.architecture.sources import PACKAGES, REPOSITORY, python_files


def test_no_file_of_flows_or_tasks_has_the_name_of_another_top_level_module() -> None:
    """Prefect puts a flow's own folder first on sys.path when it loads it as a file: every name there shadows."""
    taken = set(sys.stdlib_module_names) | set(packages_distributions()) | set(PACKAGES)
    names = {path.as_posix(): path.stem for path in python_files("flows", "tasks") if path.stem != "__init__"}
    assert {path for path, stem in names.items() if stem in taken} == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_is_that_of_this_checkout(package: str) -> None:
    module = importlib.import_module(package)
    assert Path(str(module.__file__)).resolve().parent == REPOSITORY / package


def test_each_package_is_that_of_this_checkout_from_another_folder_too(tmp_path: Path) -> None:
    """Holds in an environment where the project is installed, as `make test` does; the checkout is not on sys.path."""
    code = f"import importlib.util as u; print(*[getattr(u.find_spec(n), 'origin', None) for n in {PACKAGES}])"
    run = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, check=True, text=True, env={}
    )
    assert run.stdout.split() == [str(REPOSITORY / package / "__init__.py") for package in PACKAGES]
