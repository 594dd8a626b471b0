from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tasks import crash_points
from tasks.crash_points import CRASH_POINTS, REFRESH_POINTS, VARIABLE, crash_point

ALL = (*CRASH_POINTS, *REFRESH_POINTS)


@pytest.mark.parametrize("name", ALL)
def test_they_do_nothing_unless_asked_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    crash_point(name)
    monkeypatch.setenv(VARIABLE, "somewhere-else")
    crash_point(name)


def test_the_one_that_is_asked_for_kills(repository: Path) -> None:
    code = f"from tasks.crash_points import crash_point; crash_point({CRASH_POINTS[0]!r}); print('alive')"
    environment = {**os.environ, VARIABLE: CRASH_POINTS[0]}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, env=environment, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout) == (-signal.SIGKILL, "")


def test_each_is_used_at_exactly_one_place(repository: Path) -> None:
    names = {
        name for name, value in vars(crash_points).items() if isinstance(value, str) and value in ALL and name.isupper()
    }
    used: list[str] = []
    for folder in ("tasks", "flows"):
        for path in (repository / folder).glob("*.py"):
            calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
            used += [ast.unparse(call.args[0]) for call in calls if ast.unparse(call.func) == "crash_point"]
    assert sorted(used) == sorted(names)
    assert len(names) == len(ALL)
