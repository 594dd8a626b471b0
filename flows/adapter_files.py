"""The command that looks at adapter files: `lorax inspect`."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from flows.look import UNLIMITED
from flows.summary import console_for
from lorax.base_models import known_bases
from lorax.checkpoint import Checkpoint, open_checkpoint
from lorax.errors import REASONS, Stop
from lorax.examine import AdapterFiles
from lorax.inspection import Inspection, inspect_adapter, to_table
from lorax.weight_file import PICKLE_SUFFIXES

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
SUFFIX = ".safetensors"
_PEFT_WEIGHTS = (WEIGHTS, "adapter_model.bin", "adapter_model.pt")
_NAMES_OF_PARTS = frozenset({"unet", "transformer", "model", "diffusion_pytorch_model"})
_QUICK = 100
"""Headers of so many files are read in less than a second: no progress has to be shown."""
_HEADINGS = {"file": "left", "dialect": "left", "algorithms": "left", "base": "left", "sites": "right",
             "ranks": "right", "refused": "left"}  # fmt: skip


def show_inspection(path: Path, *, as_json: bool, full: bool, bases: Sequence[Path]) -> int:
    """Prints what is in a file, a PEFT folder or every adapter of a folder; returns the exit status.

    Of the adapters of a folder only headers are read, unless `full`. The status is 1 where a file would be refused.
    Raises Stop for a path that leads nowhere and a folder without adapters.
    """
    single = not path.is_dir() or (path / CONFIG).is_file()
    wanted = [adapter_files(path)] if single else _adapters_of(path)
    candidates = [*(checkpoint.base for checkpoint in open_bases(bases)), *known_bases()]
    quiet = len(wanted) < (2 if full else _QUICK) or not sys.stderr.isatty()
    steps = track(wanted, "reading", console=Console(stderr=True), transient=True, disable=quiet)
    found = [inspect_adapter(each, candidates=candidates, headers_only=not (single or full)) for each in steps]
    if as_json:
        records = [each.to_json() for each in found]
        sys.stdout.write(json.dumps(records[0] if single else records, indent=2) + "\n")
    elif single:
        _print_one(found[0])
    else:
        _print_many(found, _pickles_in(path))
    return int(any(each.is_refused for each in found))


def adapter_files(path: Path) -> AdapterFiles:
    """Gives the files of the adapter at a path: a weight file, or a folder as peft saves it. Raises Stop."""
    if path.is_dir():
        if not (path / CONFIG).is_file():
            raise Stop(f"{path}: this folder holds no {CONFIG}; name the weight file in it")
        return _peft_folder(path, str(path))
    if not os.path.lexists(path):
        raise Stop(f"{path}: there is no such file or folder")
    config = path.with_name(CONFIG)
    return AdapterFiles(path, config if path.name in _PEFT_WEIGHTS and config.is_file() else None, str(path))


def adapters_in(folder: Path) -> Iterator[AdapterFiles]:
    """Lists the adapters in a folder and below, by name; a folder with adapter_config.json is one adapter.

    Names that begin with a dot are passed over, and links to folders are not followed. Raises Stop for a folder that
    cannot be listed.
    """
    for place, names in _walk(folder):
        is_peft = CONFIG in names
        if is_peft:
            yield _peft_folder(place, _printable(place.relative_to(folder)))
        for name in names:
            if name.lower().endswith(SUFFIX) and not (is_peft and name == WEIGHTS):
                yield AdapterFiles(place / name, None, _printable((place / name).relative_to(folder)))


def open_bases(paths: Sequence[Path]) -> list[Checkpoint]:
    """Opens base models, folders or files, each named as it is on the disk. Raises Stop."""
    return [open_checkpoint(path, name=_base_name(path)) for path in paths]


def _base_name(path: Path) -> str:
    """The name of a folder, or of a file without its ending; what every model calls its parts says nothing.

    A link to a file is not followed: in the cache of Hugging Face the file itself is called by its hash.
    """
    if path.is_dir():
        place = path.resolve()
        name = place.parent.parent.name.rpartition("--")[2] if place.parent.name == "snapshots" else place.name
    else:
        place = path.absolute()
        name = place.stem.removesuffix(".fp16")
    return _base_name(place.parent) if name in _NAMES_OF_PARTS else name


def _adapters_of(folder: Path) -> list[AdapterFiles]:
    found = list(adapters_in(folder))
    if not found:
        pickles = _pickles_in(folder)
        more = f", and what ends in {', '.join(sorted(pickles))} is never opened" if pickles else ""
        raise Stop(f"{folder}: there is no {SUFFIX} file in this folder or below{more}")
    return found


def _peft_folder(place: Path, name: str) -> AdapterFiles:
    weights = next((place / each for each in _PEFT_WEIGHTS if (place / each).is_file()), place / WEIGHTS)
    return AdapterFiles(weights, place / CONFIG, name)


def _walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every folder with the names of its files, sorted."""
    for place, folders, names in os.walk(folder, onerror=_cannot_list):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        yield Path(place), sorted(each for each in names if not each.startswith("."))


def _cannot_list(problem: OSError) -> None:
    raise Stop(f"{problem.filename}: this folder cannot be listed ({problem.strerror}); make it readable") from problem


def _pickles_in(folder: Path) -> Counter[str]:
    """How many files end as pickles do, by ending; those of peft's folders are among the adapters."""
    found: Counter[str] = Counter()
    for _, names in _walk(folder):
        loose = [each for each in names if not (CONFIG in names and each in _PEFT_WEIGHTS)]
        found.update(suffix for each in loose if (suffix := Path(each).suffix.lower()) in PICKLE_SUFFIXES)
    return found


def _printable(path: Path) -> str:
    """A path as it can be printed: bytes that are no UTF-8 and control characters are spelled out."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _print_one(found: Inspection) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for heading, text in to_table(found).items():
        table.add_row(heading, Text(text))
    _print(Text(found.file), table)


def _print_many(found: Sequence[Inspection], pickles: Counter[str]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading, side in _HEADINGS.items():
        # One line for each adapter: where a terminal is narrow, words end in an ellipsis.
        table.add_column(heading, justify="right" if side == "right" else "left", no_wrap=True, overflow="ellipsis")
    for each in found:
        table.add_row(*map(Text, _row(each)))
    _print(table, Text(), *map(Text, _totals(found, pickles)))


def _row(found: Inspection) -> tuple[str, ...]:
    ranks = f"{found.ranks[0]}-{found.ranks[-1]}" if len(found.ranks) > 1 else "".join(map(str, found.ranks))
    base = found.base or " or ".join(found.rivals) or found.family
    refused = found.problem[0] if found.problem is not None and found.is_refused else ""
    return found.file, found.dialect, ", ".join(found.algorithms), base, str(found.sites or ""), ranks, refused


def _totals(found: Sequence[Inspection], pickles: Counter[str]) -> Iterator[str]:
    """Counts at the end: equal refusals are told once, with the first file and what was said of it."""
    refused = [each for each in found if each.is_refused]
    yield f"{len(found)} adapters" + (f", {len(refused)} of which would be refused:" if refused else "")
    reasons = Counter(each.problem[0] for each in refused if each.problem is not None)
    for reason, count in reasons.most_common():
        yield f"  {count:5d}  {reason}: {REASONS[reason]}"
    if undecided := sum(each.problem is not None and not each.is_refused for each in found):
        yield f"{undecided} fit several base models equally; a label in the catalogue or --base FOLDER would decide"
    if pickles:
        seen = ", ".join(f"{count} {suffix}" for suffix, count in sorted(pickles.items()))
        yield f"never opened, because pickles can run code: {seen}"


def _print(*parts: Table | Text) -> None:
    """Prints to standard output: as wide as the terminal, or without any limit into a pipe."""
    console = console_for(sys.stdout, plain_width=UNLIMITED)
    with console.capture() as text:
        for part in parts:
            console.print(part, soft_wrap=isinstance(part, Text))
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in text.get().splitlines()))
