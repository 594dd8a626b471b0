"""What the rules of this folder are applied to: the files of this checkout, as git sees them."""

from __future__ import annotations

import ast
import subprocess
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("flows", "tasks", "lorax", "catalogs")
_MADE_HERE = {"__pycache__", "build", "dist", "lorax-data"}


@cache
def tracked_files() -> tuple[Path, ...]:
    """Returns every file that belongs to the project, relative to its root; a plain walk where git is not at hand."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPOSITORY,
        capture_output=True,
        check=False,
        text=True,
    )
    if listing.returncode == 0 and listing.stdout:
        names = [Path(name) for name in listing.stdout.split("\0") if name]
    else:
        names = [
            path.relative_to(REPOSITORY)
            for path in REPOSITORY.rglob("*")
            if path.is_file() and not any(_is_made_here(part) for part in path.relative_to(REPOSITORY).parts[:-1])
        ]
    return tuple(sorted(name for name in names if (REPOSITORY / name).is_file()))


def _is_made_here(folder: str) -> bool:
    hidden = folder.startswith(".") and folder != ".ci"
    return hidden or folder in _MADE_HERE or folder.endswith(".egg-info")


def python_files(*folders: str) -> tuple[Path, ...]:
    """Returns the project's Python files under these folders, or all of them."""
    return tuple(path for path in tracked_files() if path.suffix == ".py" and (not folders or path.parts[0] in folders))


@cache
def parsed(path: Path) -> ast.Module:
    """Returns the syntax tree of a file of the project."""
    return ast.parse((REPOSITORY / path).read_text(encoding="utf-8"), filename=str(path))
