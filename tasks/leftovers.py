"""Clears what killed runs left in a plans folder: pieces of plans that nobody went on with, and half-written files.

Whatever may still be of use stays. The pieces of a compilation may be worth hours, and the next run that wants that
plan goes on with them; when nobody has added to them for a week, nobody wants it. A half-written file is of use to none
but the process that writes it.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

PIECES_SECONDS = 7 * 24 * 3600
DRAFT_SECONDS = 24 * 3600
"""Drafts stay for a day though their process is gone: in a shared folder it may be one of another machine."""

_DRAFT = re.compile(r"\.{1,2}draft-(\d+)-[0-9a-f]+\.safetensors(\.\d+\.[0-9a-f]+\.part)?")


def sweep_plans(folder: Path, *, now: float | None = None) -> list[Path]:
    """Removes leftovers from a plans folder and returns what they were. Another process may do the same meanwhile."""
    moment = time.time() if now is None else now
    gone = [*_stale_pieces(folder, moment - PIECES_SECONDS), *_stale_drafts(folder, moment - DRAFT_SECONDS)]
    for path in gone:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return gone


def _stale_pieces(folder: Path, oldest: float) -> Iterator[Path]:
    """Yields folders of pieces to which nothing was added since; every new piece touches its folder."""
    for pieces in folder.glob(".pieces-*"):
        if pieces.is_dir() and not pieces.is_symlink() and (_touched(pieces) or oldest) < oldest:
            yield pieces


def _stale_drafts(folder: Path, oldest: float) -> Iterator[Path]:
    for draft in folder.glob(".*draft-*"):
        found = _DRAFT.fullmatch(draft.name)
        if found and not _is_alive(int(found[1])) and (_touched(draft) or oldest) < oldest:
            yield draft


def _touched(path: Path) -> float | None:
    """When something last changed at a path; None where another process has just removed it."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
