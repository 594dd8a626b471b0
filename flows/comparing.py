"""The command that compares two base models: `lorax compare`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from flows.adapter_files import open_bases
from flows.look import UNLIMITED
from flows.summary import console_for
from lorax.base_model import BaseModel
from lorax.checkpoint import Checkpoint
from lorax.comparison import Comparison, compare_bases, compare_checkpoints
from lorax.correspondence import WITHOUT_SOURCE
from lorax.errors import Stop
from lorax.expectations import CASES, EXPECTED
from lorax.places import place_of
from tasks.bases import known_base

_MOST_HOMELESS = 12


def show_comparison(source: str, target: str, *, as_json: bool, heat_map: Path | None) -> None:
    """Prints what two bases have in common, and draws it where a file for that is named.

    source, target: the folder of a base, or the name of one that is known by heart; weights are compared where both are
    folders. Raises Stop for a base that is neither, and for a heat map that cannot be written.
    """
    if heat_map is not None:
        from flows.heat_map import check_heat_map

        check_heat_map(heat_map)
    found = _compare(_open(source), _open(target))
    if as_json:
        sys.stdout.write(json.dumps(found.to_json(), indent=2) + "\n")
    else:
        _print(found)
    if heat_map is not None:
        from flows.heat_map import write_heat_map

        write_heat_map(found, heat_map)


def _open(wanted: str) -> Checkpoint | BaseModel:
    path = Path(wanted)
    if path.exists():
        return open_bases([path])[0]
    try:
        return known_base(wanted)
    except Stop as problem:
        raise Stop(f"{wanted}: there is no such folder or file, and {problem}") from problem


def _compare(source: Checkpoint | BaseModel, target: Checkpoint | BaseModel) -> Comparison:
    if isinstance(source, Checkpoint) and isinstance(target, Checkpoint):
        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
            task = progress.add_task("comparing weights", total=None)
            return compare_checkpoints(
                source, target, progress=lambda done, total: progress.update(task, completed=done, total=total)
            )
    bases = [each.base if isinstance(each, Checkpoint) else each for each in (source, target)]
    return compare_bases(bases[0], bases[1])


def _print(found: Comparison) -> None:
    console = console_for(sys.stdout, plain_width=UNLIMITED)
    parts = [_head(found), Text(), _parts(found), *_lost(found), Text(), _expectations(found)]
    with console.capture() as text:
        for part in parts:
            console.print(part, soft_wrap=isinstance(part, Text))
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in text.get().splitlines()))


def _head(found: Comparison) -> Table:
    fed = sum(site.source is not None for site in found.sites)
    same = sum(site.same_shape for site in found.sites)
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for heading, words in {
        "bases": f"{found.source} → {found.target}",
        "rule": f"{found.rule.name}: {found.rule.summary}",
        "sites": f"{fed} of {len(found.sites)} have a source ({found.share:.1%}), {same} of them in the same shape",
        "likeness": CASES[found.case],
    }.items():
        table.add_row(heading, Text(words))
    return table


def _parts(found: Comparison) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("part", no_wrap=True)
    headings = ["sites", "with source", "same shape", *(["alike", "weight distance"] if found.has_weights else [])]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for part in found.parts():
        row = [part.part, str(part.sites), str(part.with_source), str(part.same_shape)]
        if found.has_weights:
            row += [_figure(part.alike), _figure(part.weight_distance)]
        table.add_row(*map(Text, row))
    return table


def _lost(found: Comparison) -> list[Text]:
    """The reasons of sites without a source, and where the sites without a home lie."""
    lines = [
        Text(f"{count:6d} without a source, {reason}: {WITHOUT_SOURCE[reason]}")
        for reason, count in found.reasons.items()
    ]
    if found.homeless:
        parts = dict.fromkeys(place_of(site).part for site in found.homeless)
        shown = ", ".join(list(parts)[:_MOST_HOMELESS]) + (" …" if len(parts) > _MOST_HOMELESS else "")
        lines.append(Text(f"{len(found.homeless):6d} of the source without a home, in its {shown}"))
    return [Text(), *lines] if lines else []


def _expectations(found: Comparison) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("method", no_wrap=True)
    table.add_column("what to expect (100 % = as an adapter trained on the target; a judgement, so score it)")
    for method, words in EXPECTED[found.case].items():
        table.add_row(Text(method), Text(words))
    return table


def _figure(value: float | None) -> str:
    # Adding zero turns -0.0 into 0.0.
    return "" if value is None else f"{round(value, 2) + 0.0:.2f}"
