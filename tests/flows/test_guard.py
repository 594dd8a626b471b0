from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flows.guard import ForeignPackageError, check_packages


def test_the_packages_of_this_checkout_pass() -> None:
    check_packages()


def test_a_package_from_elsewhere_is_refused_with_its_place_and_owner() -> None:
    with pytest.raises(ForeignPackageError, match=r"`import pytest` would read .*\(from pytest\).*virtual environment"):
        check_packages(names=("pytest",))


def test_a_package_that_is_nowhere_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ForeignPackageError, match=r"no package `lorax_of_nowhere`.*pip install -e"):
        check_packages(names=("lorax_of_nowhere",))


def test_the_command_refuses_to_run_with_a_foreign_lorax(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "lorax").mkdir()
    (tmp_path / "lorax" / "__init__.py").write_text("__version__ = 'of somebody else'\n")
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(repository)!r}]; import flows.command_line as c; c.main()"
    )
    run = subprocess.run([sys.executable, "-c", code, "--version"], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert str(tmp_path / "lorax") in run.stderr
    assert "Traceback" not in run.stderr
