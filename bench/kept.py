"""Keeps what a bench measured in the form that docs/benchmarks.md is written from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def keep(
    file: Path, docstring: str | None, *, title: str, made_with: Mapping[str, str], tables: Sequence[Mapping[str, Any]]
) -> None:
    """Writes tables (each with title, columns, rows, perhaps caption) beside what the bench's docstring says of them.

    Its second paragraph starts with the command; all others tell what is measured.
    """
    first, command, *others = (docstring or "").split("\n\n")
    body = {
        "title": title,
        "command": command.strip().splitlines()[0].strip(),
        "about": "\n\n".join([first, *others]).strip(),
        "made_with": made_with,
        "tables": tables,
    }
    file.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
