"""Writes requirements.lock: every package that the project needs, at the version that was just resolved.

Called by `make lock`. Resolves pyproject.toml with all its extras in a throw-away environment. torch stays at the
version named in the present lock (its builds differ per platform, so it moves by hand: edit that line, then run this).
What torch brings along on one platform only (CUDA libraries, triton) is left out; pip adds it where it is needed.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
LOCK = REPOSITORY / "requirements.lock"
PLATFORM_ONLY = re.compile(r"(nvidia-|cuda-|triton==|pip==)", re.IGNORECASE)
HEADER = """\
# Every package of the project's environment, tests and linters included. Made by `make lock` from pyproject.toml.
# Do not edit by hand, but for the line of torch: set the version wanted there, then run `make lock`.
"""


def wanted_requirements(project: dict[str, object]) -> list[str]:
    """Returns the dependencies of pyproject.toml's [project] table with those of all extras, sorted."""
    dependencies = list(project["dependencies"])  # type: ignore[call-overload]
    for extra in project["optional-dependencies"].values():  # type: ignore[attr-defined]
        dependencies += extra
    return sorted(set(dependencies))


def lock_lines(freeze: str) -> list[str]:
    """Returns the lines of `pip freeze` that belong in a lock: plain `name==version`, no platform's own packages.

    Raises SystemExit on a line that is not of that form, such as one that names a file or an address.
    """
    lines = []
    for line in freeze.split():
        if PLATFORM_ONLY.match(line):
            continue
        if not re.fullmatch(r"[\w.\-]+==[\w.!+]+", line):
            raise SystemExit(f"pip freeze printed {line!r}: a lock holds name==version lines only")
        lines.append(line.partition("+")[0])
    return sorted(lines, key=str.casefold)


def main() -> None:
    """Resolves, and replaces requirements.lock."""
    pinned_torch = re.search(r"^torch==\S+$", LOCK.read_text(), re.MULTILINE) if LOCK.exists() else None
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    build_tools = project["build-system"]["requires"]
    with tempfile.TemporaryDirectory(prefix="lorax-lock-") as folder:
        venv.create(folder, with_pip=True)
        pip = [f"{folder}/bin/python", "-m", "pip"]
        install = [*pip, "install", "--quiet", "--no-compile"]
        if pinned_torch:
            subprocess.run([*install, pinned_torch.group()], check=True)
        subprocess.run([*install, *wanted_requirements(project["project"]), *build_tools], check=True)
        subprocess.run([*pip, "check"], check=True, stdout=sys.stderr)
        freeze = subprocess.run([*pip, "freeze", "--all"], check=True, capture_output=True, text=True).stdout
    LOCK.write_text(HEADER + "\n".join(lock_lines(freeze)) + "\n")


if __name__ == "__main__":
    main()
