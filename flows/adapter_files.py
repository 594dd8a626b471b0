"""The commands that look at and re-spell adapter files: `lorax inspect` and `lorax rewrite`."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lorax.adapter import Adapter
from lorax.base_model import BaseModel
from lorax.base_models import known_bases
from lorax.checkpoint import Checkpoint, open_checkpoint
from lorax.errors import Refused, Stop
from lorax.examine import AdapterFiles, examine
from lorax.identify import identify
from lorax.inspection import Inspection, inspect_adapter, to_table
from lorax.lowering import lower_adapter
from lorax.read import assemble
from lorax.write import write_adapter

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
SUFFIX = ".safetensors"


def show_inspection(path: Path, *, as_json: bool, full: bool, bases: Sequence[Path]) -> int:
    """Prints what is in a file, a PEFT folder or every adapter of a folder; returns the exit status.

    Of the adapters of a folder only headers are read, unless `full`. The status is 1 where a file would be refused.
    """
    candidates = [*(checkpoint.base for checkpoint in open_bases(bases)), *known_bases()]
    single = not path.is_dir() or (path / CONFIG).is_file()
    wanted = [adapter_files(path)] if single else list(adapters_in(path))
    if not wanted:
        raise Stop(f"{path}: there is no safetensors file in this folder or below")
    found = [inspect_adapter(each, candidates=candidates, headers_only=not (single or full)) for each in wanted]
    if as_json:
        records = [each.to_json() for each in found]
        sys.stdout.write(json.dumps(records[0] if single else records, indent=2) + "\n")
    elif single:
        _print_one(found[0])
    else:
        _print_many(found)
    return int(any(each.problem is not None for each in found))


def adapter_files(path: Path) -> AdapterFiles:
    """Gives the files of the adapter at a path: a weight file, or a folder as peft saves it. Raises Stop."""
    if path.is_dir():
        weights = path / WEIGHTS
        if not weights.is_file():
            others = [each for each in sorted(path.glob("adapter_model.*")) if each.is_file()]
            weights = others[0] if others else weights
        return AdapterFiles(weights, path / CONFIG if (path / CONFIG).is_file() else None, str(path))
    if not path.exists():
        raise Stop(f"{path}: there is no such file or folder")
    config = path.with_name(CONFIG)
    return AdapterFiles(path, config if path.name == WEIGHTS and config.is_file() else None, str(path))


def adapters_in(folder: Path) -> Iterator[AdapterFiles]:
    """Lists the adapters in a folder and below, by name; a folder with adapter_config.json is one adapter."""
    for path in sorted(folder.rglob(f"*{SUFFIX}")):
        if path.is_file():
            config = path.with_name(CONFIG)
            yield AdapterFiles(path, config if config.is_file() else None, str(path.relative_to(folder)))


def open_bases(folders: Sequence[Path]) -> list[Checkpoint]:
    """Opens base models, each named as its folder is. Raises Stop."""
    return [open_checkpoint(folder, name=folder.resolve().name) for folder in folders]


def _print_one(found: Inspection) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for heading, text in to_table(found).items():
        table.add_row(heading, text)
    console = Console(highlight=False, markup=False)
    console.print(found.file)
    console.print(table)


def _print_many(found: Sequence[Inspection]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("file", "dialect", "algorithms", "base", "sites", "ranks", "unknown", "refused"):
        table.add_column(heading, overflow="fold", justify="right" if heading in {"sites", "unknown"} else "left")
    for each in found:
        ranks = f"{each.ranks[0]}-{each.ranks[-1]}" if len(each.ranks) > 1 else "".join(map(str, each.ranks))
        base = each.base or (f"one of {', '.join(each.rivals)}" if each.rivals else each.family)
        refused = each.problem[0] if each.problem else ""
        algorithms = ", ".join(each.algorithms)
        table.add_row(
            each.file, each.dialect, algorithms, base, str(each.sites), ranks, str(each.tensors_unknown), refused
        )
    console = Console(highlight=False, markup=False)
    console.print(table)
    refused_count = sum(each.problem is not None for each in found)
    console.print(f"{len(found)} adapters, {refused_count} of which would be refused")


def rewrite(path: Path, *, dialect: str, out: Path, base: str | None, rank: int) -> int:
    """Writes the adapter at a path in another dialect, for the same base model; returns the exit status.

    base: name of a known base or folder of one, where the file does not tell; its weights are needed for algorithms
    that depend on them when the dialect has no word for those; rank: of what has to be approximated then.
    """
    checkpoint = open_bases([Path(base)])[0] if base is not None and Path(base).is_dir() else None
    try:
        adapter, model = _read(adapter_files(path), base, checkpoint)
        written = _write(adapter, model, checkpoint, dialect=dialect, out=out, stem=path.stem, rank=rank)
    except Refused as problem:
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"lorax: {problem} ({problem.reason})", markup=False
        )
        return 1
    for each in written:
        sys.stdout.write(f"{each}\n")
    return 0


def _read(files: AdapterFiles, base: str | None, checkpoint: Checkpoint | None) -> tuple[Adapter, BaseModel]:
    candidates = [checkpoint.base] if checkpoint is not None else _known(base)
    try:
        examination = examine(files)
        found = identify(examination, candidates=candidates)
        if found.problem is not None and found.problem.reason != "base-undecided":
            raise found.problem
        # Between equal bases nothing depends on which is taken: the same modules, the same names.
        return assemble(examination, found.base, found.verdict), found.base
    except Refused as problem:
        raise problem.at(files.name) from problem


def _known(base: str | None) -> Sequence[BaseModel]:
    bases = known_bases()
    if base is None:
        return bases
    found = [each for each in bases if each.name == base]
    if not found:
        names = ", ".join(each.name for each in bases)
        raise Stop(f"--base {base}: this is neither the folder of a base model nor the name of a known one ({names})")
    return found


def _write(
    adapter: Adapter, base: BaseModel, checkpoint: Checkpoint | None, *, dialect: str, out: Path, stem: str, rank: int
) -> list[Path]:
    """Writes beside the destination first: a rewriting that fails leaves nothing behind."""
    is_file = out.suffix == SUFFIX
    place = out.parent if is_file else out
    place.mkdir(parents=True, exist_ok=True)
    try:
        return _draft(adapter, base, dialect=dialect, out=out, stem=stem)
    except Refused as problem:
        if problem.reason != "unwritable":
            raise
    lowered = lower_adapter(adapter, checkpoint.weight if checkpoint is not None else None, rank=rank)
    lost = max(lowered.lost.values(), default=0.0)
    if lost > 0:
        message = f"lorax: written as LoRA; the largest share of squared norm that a site lost is {lost:.2%}"
        Console(stderr=True, highlight=False, soft_wrap=True).print(message, markup=False)
    return _draft(lowered.adapter, base, dialect=dialect, out=out, stem=stem)


def _draft(adapter: Adapter, base: BaseModel, *, dialect: str, out: Path, stem: str) -> list[Path]:
    is_file = out.suffix == SUFFIX
    place = out.parent if is_file else out
    with tempfile.TemporaryDirectory(dir=place, prefix=".lorax-") as scratch:
        name = out.stem if is_file else stem
        paths = write_adapter(adapter, Path(scratch), dialect=dialect, base=base, stem=name, metadata={})
        if is_file and len(paths) > 1:
            raise Stop(f"--output {out}: {dialect} writes {len(paths)} files; give a folder")
        targets = [out if is_file else out / path.relative_to(scratch) for path in paths]
        for path, target in zip(paths, targets, strict=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, target)
    return targets
