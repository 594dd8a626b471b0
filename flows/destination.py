"""Where a command puts what it writes: never over something that is there, and all at once."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from lorax.errors import Stop
from lorax.weight_file import PICKLE_SUFFIXES

SUFFIX = ".safetensors"


def names_a_file(out: Path) -> bool:
    """Tells whether --output means a weight file; otherwise it means a folder."""
    return out.suffix.lower() == SUFFIX and not out.is_dir()


def check_destination(out: Path) -> None:
    """Raises Stop for an --output that could not be written to, before any work is done."""
    if out.suffix.lower() in PICKLE_SUFFIXES:
        raise Stop(f"--output {out}: files that end so are pickles; give a {SUFFIX} file or a folder")
    if out.exists() and not out.is_dir():
        raise Stop(f"--output {out}: there is a file already, which is never overwritten; delete it or name another")


def nearest_folder(out: Path) -> Path:
    """Returns the nearest folder above a path that exists, on whose file system the path will be."""
    place = out.absolute()
    candidates = (place, *place.parents) if out.is_dir() else place.parents
    return next(folder for folder in candidates if folder.is_dir())


def put(paths: Sequence[Path], draft: Path, out: Path) -> list[Path]:
    """Moves finished files from the folder `draft` to their place, one file or all as a folder at once.

    Returns where they are. Raises Stop when something is there already, or several files would have to be one.
    """
    if names_a_file(out) and len(paths) > 1:
        raise Stop(f"--output {out}: the dialect writes {len(paths)} files; give a folder")
    if len(paths) == 1:
        target = out if names_a_file(out) else out / paths[0].relative_to(draft)
        if target.exists():
            raise Stop(f"--output {out}: {target} exists and is never overwritten; delete it or name another place")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(paths[0], target)
        return [target]
    if out.exists() and any(out.iterdir()):
        raise Stop(f"--output {out}: {len(paths)} files are written, which get a new or empty folder of their own")
    out.parent.mkdir(parents=True, exist_ok=True)
    draft.rename(out)
    return [out / path.relative_to(draft) for path in paths]
