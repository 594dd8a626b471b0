"""The page docs/benchmarks.md, made of what bench/ wrote to bench/results: nothing is measured here."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from bench.fidelity_table import COLUMNS, Cell, rows_of  # noqa: E402 - after the path

RESULTS = REPOSITORY / "bench" / "results"
OPENING = """# Benchmarks

Tables of the last runs of what lies in `bench/`; each says how to run it again. They were written by the programs, not
by hand. Processor seconds are given where machines are shared, and ratios are of figures measured in one run."""
FIDELITY = """## Fidelity

`OMP_NUM_THREADS=1 python bench/fidelity.py`

**R**, recovered lift: how much of what an adapter trained on the target gains on held-out samples of its task, the
transferred adapter gains too. 1 is as good as retraining, 0 as good as doing nothing, below 0 is harm. **95 %**:
interval of the mean, by a bootstrap over adapters and held-out samples. **drift / native's**: what the adapter adds to
the loss on neutral samples, over what adapters trained on the target add. **s**: processor seconds per adapter once the
plan is there; for `refresh` all that it samples is in it; for `native` the training, extrapolated from some steps.
`native`: adapters trained on the target with other seeds, against each other. *source+adapter*: the old base with the
old adapter in the target's place, which is what `refresh` learns from. `refresh, quick`: 18 steps, drift not held.

Settings and defaults were chosen on one half of the adapters; R, interval, worst and best are about the other half:
{halves}. The last column is about the half that was tuned on. Rows in italics are controls."""


def page() -> str:
    """Returns the page; benches without results are left out."""
    parts = [OPENING]
    if (file := RESULTS / "fidelity.json").exists():
        parts += list(_fidelity(json.loads(file.read_text(encoding="utf-8"))))
    if (file := RESULTS / "gate.json").exists():
        parts += list(_gate(json.loads(file.read_text(encoding="utf-8"))))
    for name in ("score_cost", "apply", "compile", "genuine"):
        if (file := RESULTS / f"{name}.json").exists():
            parts += list(_plain(json.loads(file.read_text(encoding="utf-8"))))
    return "\n\n".join(parts)


def _fidelity(stored: Mapping[str, Any]) -> Iterable[str]:
    cells = [Cell(**each) for each in stored["cells"]]
    halves = "; ".join(
        f"{example}: {', '.join(dict.fromkeys(_task(cell) for cell in cells if _is_fresh(cell, example)))}"
        for example in dict.fromkeys(cell.example for cell in cells)
    )
    yield FIDELITY.format(halves=halves)
    yield _made_with(stored["made_with"])
    for target in dict.fromkeys(cell.target for cell in cells):
        own = [cell for cell in cells if cell.target == target]
        controls = {cell.method for cell in own if cell.control}
        yield f"### {own[0].source} → {target}: {own[0].relation}"
        yield _table(COLUMNS, [[_named(row[0], controls), *row[1:]] for row in rows_of(own)])
        if without := [f"`{method}`" for place, method in stored["nothing"] if place == target]:
            yield f"No site of these adapters fits the target by {', '.join(without)}."


def _gate(stored: Mapping[str, Any]) -> Iterable[str]:
    """The gate bench: its docstring, and its tables as it prints them."""
    # Read and not imported: the bench itself needs the examples.
    said = ast.get_docstring(ast.parse((REPOSITORY / "bench" / "gate.py").read_text(encoding="utf-8")))
    first, command, *others = (said or "").split("\n\n")
    yield f"## The gate\n\n`{command.strip()}`\n\n" + "\n\n".join([first, *others])
    yield "![Score against true R, and how often a conversion of a score is good](pictures/gate.svg)"
    yield _made_with(stored["made_with"])
    for table in stored["tables"]:
        yield f"### {table['title']}"
        yield _table(table["columns"], table["rows"])


def _task(cell: Cell) -> str:
    return cell.task.partition(".")[0]


def _is_fresh(cell: Cell, example: str) -> bool:
    return cell.example == example and not cell.tuned


def _named(method: str, controls: set[str]) -> str:
    return f"*{method}*" if method in controls else f"`{method}`"


def _plain(stored: Mapping[str, Any]) -> Iterable[str]:
    """The parts of a bench that says what its tables are: title, command, about, made_with, tables."""
    yield f"## {stored['title']}\n\n`{stored['command']}`\n\n{stored['about']}"
    yield _made_with(stored["made_with"])
    for each in stored["tables"]:
        yield f"### {each['title']}\n\n{_table(each['columns'], each['rows'])}\n\n{each.get('caption', '')}".rstrip()


def _made_with(words: Mapping[str, str]) -> str:
    return "Measured with " + ", ".join(f"{name} {value}" for name, value in words.items()) + "."


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(value).replace("|", "\\|") for value in line) + " |" for line in lines)
