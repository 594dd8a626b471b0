"""pyproject.toml, the lock and the folders say the same thing."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from fnmatch import fnmatch
from importlib.metadata import packages_distributions
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.architecture.sources import PACKAGES, REPOSITORY, parsed, python_files, tracked_files


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def lock() -> dict[str, str]:
    lines = (REPOSITORY / "requirements.lock").read_text().splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pins}


def test_every_folder_of_the_four_packages_is_listed(pyproject: dict[str, Any]) -> None:
    folders = {".".join(path.parent.parts) for path in tracked_files() if path.parts[0] in PACKAGES}
    assert folders == set(pyproject["tool"]["setuptools"]["packages"])


def test_every_data_file_of_the_packages_is_package_data(pyproject: dict[str, Any]) -> None:
    patterns = pyproject["tool"]["setuptools"]["package-data"]["*"]
    data = [path for path in tracked_files() if path.parts[0] in PACKAGES and path.suffix != ".py"]
    assert data
    assert [str(path) for path in data if not any(fnmatch(path.name, pattern) for pattern in patterns)] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_says_that_it_is_typed(package: str) -> None:
    assert (REPOSITORY / package / "py.typed").is_file()


def test_an_index_refuses_an_upload(pyproject: dict[str, Any]) -> None:
    assert "Private :: Do Not Upload" in pyproject["project"]["classifiers"]


def test_the_lock_meets_every_requirement(pyproject: dict[str, Any], lock: dict[str, str]) -> None:
    project = pyproject["project"]
    requirements = [*project["dependencies"], *pyproject["build-system"]["requires"]]
    for extra in project["optional-dependencies"].values():
        requirements += extra
    unmet = [
        text
        for text in requirements
        for requirement in [Requirement(text)]
        if not requirement.specifier.contains(lock.get(canonicalize_name(requirement.name), "0"))
    ]
    assert unmet == []


def imported(tree: ast.Module) -> set[str]:
    """Returns the top-level names of the modules that a module imports anywhere in it."""
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 0}
    return {name.partition(".")[0] for name in names}


def test_every_third_party_import_is_a_declared_dependency(pyproject: dict[str, Any]) -> None:
    declared = {canonicalize_name(Requirement(text).name) for text in pyproject["project"]["dependencies"]}
    providers = packages_distributions()
    used = {name for path in python_files(*PACKAGES) for name in imported(parsed(path))}
    foreign = used - set(sys.stdlib_module_names) - set(PACKAGES)
    undeclared = {
        name for name in foreign if not declared & {canonicalize_name(each) for each in providers.get(name, [name])}
    }
    assert "torch" in foreign
    assert undeclared == set()


def test_the_lock_holds_plain_pins_only() -> None:
    lines = (REPOSITORY / "requirements.lock").read_text().splitlines()
    odd = [line for line in lines if not line.startswith("#") and not re.fullmatch(r"[\w.\-]+==[\w.!]+", line)]
    assert odd == []


def test_the_changelog_has_an_entry_for_this_version(pyproject: dict[str, Any]) -> None:
    changelog = (REPOSITORY / "CHANGELOG.md").read_text()
    assert re.search(rf"^## {re.escape(pyproject['project']['version'])}\b", changelog, re.MULTILINE)
