"""Recovered lift R of every method on every pair of both examples, beside drift and time, against retraining.

    OMP_NUM_THREADS=1 python bench/fidelity.py [--targets text-v2,digits-v2] [--methods "copy;auto"] [--again]

R = (loss of the target - loss with the transferred adapter) / (loss of the target - loss with the native one), losses
on held-out samples of the adapter's task, the same for all. 1 is as good as retraining, 0 as good as doing nothing,
below 0 is harm. Where several natives were trained (other seeds) their mean is the yardstick; the row `native` scores
each of them against the others. The row `source+adapter` is the old base with the old adapter in the target's place.
Drift is what the adapter adds to the loss on neutral samples; 1 is as much as the natives add. Seconds are of processor
time, for one adapter once the plan is there; those of `refresh` include all that it samples.

Settings and defaults were chosen on one half of the adapters (`tuned`); the tables are about the other half. Results
are kept in bench/results/fidelity.json, one cell per (pair, adapter, method): what is there is not measured again
unless --again is given, and docs/benchmarks.md is written from it by `make docs`.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench import digits, texts  # noqa: E402 - after the path
from bench.fidelity_table import COLUMNS, Cell, rows_of  # noqa: E402
from bench.subjects import NEUTRAL, Example, Subject  # noqa: E402
from lorax import __version__  # noqa: E402
from lorax.adapter import Adapter  # noqa: E402
from lorax.base_pair import pairing  # noqa: E402
from lorax.convert import Conversion, convert_adapters  # noqa: E402
from lorax.load_model import load_pair  # noqa: E402
from lorax.methods import METHODS  # noqa: E402
from lorax.prepare import prepare_plan  # noqa: E402
from lorax.refresh import RefreshSettings, refresh  # noqa: E402
from lorax.refresh_start import completed  # noqa: E402
from lorax.running_model import RunningModel  # noqa: E402

RESULTS = ROOT / "bench" / "results" / "fidelity.json"
NATIVE, REFRESH, QUICK, CEILING = "native", "refresh", "refresh, quick", "source+adapter"
STARTS = ("auto", "copy", "zero")
LINEAGE = "later checkpoint"
TIMED_STEPS = 20
RESAMPLES = 1000


@dataclass(frozen=True)
class Made:
    """Adapters for one target by one method, by task, and what each took in seconds."""

    adapters: Mapping[str, Adapter]
    seconds: Mapping[str, float]
    plan_seconds: float


class Pair:
    """One base pair, opened, with the losses that every method is held against."""

    def __init__(self, example: Example, target: str) -> None:
        self.example, self.name = example, target
        self.source, self.target = example.open(example.source), example.open(target)
        self.models: tuple[RunningModel, RunningModel] = load_pair(self.source.folder, self.target.folder)
        self.adapters = {subject.task: subject.adapter(self.source) for subject in example.subjects}
        self.natives = {subject.task: subject.natives_on(self.target) for subject in example.subjects}
        self._plain: dict[str, Tensor] = {}
        self._own: dict[str, list[Tensor]] = {}
        self._drift: dict[str, float] = {}

    def plain(self, task: str) -> Tensor:
        """Losses of the target itself."""
        if task not in self._plain:
            self._plain[task] = self.example.loss(self.models[1], None, task)
        return self._plain[task]

    def own(self, task: str) -> list[Tensor]:
        """Losses with each adapter that was trained on the target."""
        if task not in self._own:
            self._own[task] = [self.example.loss(self.models[1], native, task) for native in self.natives[task]]
        return self._own[task]

    def native_drift(self, task: str) -> float:
        """What the natives add to the loss on neutral samples."""
        if task not in self._drift:
            found = [self.example.loss(self.models[1], native, NEUTRAL).mean() for native in self.natives[task]]
            self._drift[task] = float(torch.stack(found).mean() - self.plain(NEUTRAL).mean())
        return self._drift[task]

    def retraining(self) -> float:
        """Seconds of training an adapter on the target, from some steps of it, measured now."""
        task = self.example.subjects[0].task
        self.example.training(self.name, task, 2)
        return self.example.training(self.name, task, TIMED_STEPS) * self.example.all_steps / TIMED_STEPS


def lift(plain: Tensor, found: Tensor, own: Tensor) -> tuple[float, float]:
    """Returns R and its standard error, by a bootstrap over held-out samples; losses (n,) of the same samples."""
    picks = torch.randint(len(plain), (RESAMPLES, len(plain)), generator=torch.Generator().manual_seed(0))
    base, here, best = (each.double()[picks].mean(1) for each in (plain, found, own))
    value = float((plain.mean() - found.mean()) / (plain.mean() - own.mean()))
    return value, float(((base - here) / (base - best)).std())


def made_by_plan(pair: Pair, method: str) -> Made:
    """Converts all adapters by a method's plan, all settings as they come."""
    began = time.process_time()
    plan = prepare_plan(pair.source, pair.target, method=method, settings={}, probe=pair.example.probe)
    planned = time.process_time()
    results = convert_adapters(plan, list(pair.adapters.values()), target=pair.target.base)
    each = (time.process_time() - planned) / len(results)
    found = {
        task: result.adapter
        for task, result in zip(pair.adapters, results, strict=True)
        if isinstance(result, Conversion)
    }
    return Made(found, dict.fromkeys(found, each), planned - began)


def cells(pair: Pair, subject: Subject, method: str, made: Made, common: Mapping[str, float]) -> Iterator[Cell]:
    """Yields the cell of one adapter and method; none where the method gave no adapter."""
    if subject.task not in made.adapters:
        return
    adapter, task = made.adapters[subject.task], subject.task
    found = pair.example.loss(pair.models[1], adapter, task)
    drift = float(pair.example.loss(pair.models[1], adapter, NEUTRAL).mean() - pair.plain(NEUTRAL).mean())
    value, error = lift(pair.plain(task), found, torch.stack(pair.own(task)).mean(0))
    yield replace(
        blank_cell(pair, subject, method, common),
        control=method in METHODS and METHODS[method].is_control,
        lift=value,
        error=error,
        drift=drift,
        seconds=made.seconds[task],
        plan_seconds=made.plan_seconds,
    )


def blank_cell(pair: Pair, subject: Subject, method: str, common: Mapping[str, float]) -> Cell:
    """Returns a cell with all that does not depend on what was measured; drift is that of natives."""
    drift = pair.native_drift(subject.task)
    return Cell(
        example=pair.example.name,
        source=pair.example.source,
        target=pair.name,
        relation=pair.example.targets[pair.name],
        task=subject.task,
        tuned=subject.tuned,
        method=method,
        control=False,
        lift=0.0,
        error=0.0,
        drift=drift,
        native_drift=drift,
        seconds=0.0,
        plan_seconds=0.0,
        retraining_seconds=common["retraining"],
    )


def native_cells(pair: Pair, subject: Subject, common: Mapping[str, float]) -> Iterator[Cell]:
    """Yields how each adapter that was trained on the target does against the others with other seeds."""
    own = pair.own(subject.task)
    for index, found in enumerate(own if len(own) > 1 else ()):
        others = [each for place, each in enumerate(own) if place != index]
        value, error = lift(pair.plain(subject.task), found, torch.stack(others).mean(0))
        cell = blank_cell(pair, subject, NATIVE, common)
        task = f"{subject.task}.seed{index}"
        yield replace(cell, task=task, lift=value, error=error, seconds=common["retraining"])


def ceiling_cells(pair: Pair, subject: Subject, common: Mapping[str, float]) -> Iterator[Cell]:
    """Yields what source+adapter itself would recover in the target's place: as far as a pupil of it can come."""
    task, source = subject.task, pair.models[0]
    found = pair.example.loss(source, pair.adapters[task], task)
    drift = float(pair.example.loss(source, pair.adapters[task], NEUTRAL).mean() - pair.plain(NEUTRAL).mean())
    value, error = lift(pair.plain(task), found, torch.stack(pair.own(task)).mean(0))
    cell = blank_cell(pair, subject, CEILING, common)
    yield replace(cell, control=True, lift=value, error=error, drift=drift)


class Results:
    """The cells in a file, by pair, task and method; written after each method of a pair."""

    def __init__(self, file: Path) -> None:
        self.file = file
        stored = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        self.cells = {cell.key: cell for cell in (Cell(**each) for each in stored.get("cells", ()))}
        self.nothing = {(target, method) for target, method in stored.get("nothing", ())}

    def has(self, target: str, method: str) -> bool:
        """Tells whether a method was measured on a pair."""
        known = {(cell.target, cell.method) for cell in self.cells.values()} | self.nothing
        return (target, method) in known

    def add(self, target: str, method: str, found: Sequence[Cell]) -> None:
        """Keeps the cells of a method on a pair, or that it carries nothing there."""
        self.cells |= {cell.key: cell for cell in found}
        self.nothing = self.nothing - {(target, method)} | (set() if found else {(target, method)})
        made_with = {"lorax": __version__, "torch": torch.__version__, "machine": platform.machine()}
        made_with["threads"] = str(torch.get_num_threads())
        ordered = [asdict(self.cells[key]) for key in sorted(self.cells)]
        self.file.parent.mkdir(exist_ok=True)
        self.file.write_text(
            json.dumps({"made_with": made_with, "nothing": sorted(self.nothing), "cells": ordered}, indent=1) + "\n",
            encoding="utf-8",
        )


def measure(pair: Pair, methods: Sequence[str], results: Results, *, again: bool) -> None:
    """Measures what is missing on one pair."""
    missing = [method for method in methods if again or not results.has(pair.name, method)]
    if not missing:
        return
    common = {"retraining": pair.retraining()}
    for method in missing:
        if method == QUICK and pair.example.targets[pair.name] != LINEAGE:
            continue
        if method == CEILING:
            found = [cell for subject in pair.example.subjects for cell in ceiling_cells(pair, subject, common)]
        elif method == NATIVE:
            found = [cell for subject in pair.example.subjects for cell in native_cells(pair, subject, common)]
        else:
            learnt = method in {REFRESH, QUICK}
            made = refreshed(pair, method, common["retraining"]) if learnt else made_by_plan(pair, method)
            found = [cell for subject in pair.example.subjects for cell in cells(pair, subject, method, made, common)]
        results.add(pair.name, method, found)
        mean = f"mean R {sum(cell.lift for cell in found) / len(found):.3f}" if found else "carries nothing"
        print(f"{pair.name} {method}: {mean}, {len(found)} adapters", flush=True)


def refreshed(pair: Pair, method: str, retraining: float) -> Made:
    """Refreshes the adapters that nothing was tuned on, one after the other; outside a lineage in retraining's time."""
    example, models = pair.example, pair.models
    settings = RefreshSettings(probe=example.probe)
    if method == QUICK:
        settings = replace(settings, steps=18, hold=0.0, neutral=0)
    elif example.targets[pair.name] != LINEAGE:
        settings = replace(settings, seconds=retraining)
    began = time.process_time()
    plans = {
        name: prepare_plan(pair.source, pair.target, method=name, settings={}, probe=example.probe) for name in STARTS
    }
    matches = pairing(pair.source, pair.target)
    planned = time.process_time() - began
    found: dict[str, Adapter] = {}
    seconds: dict[str, float] = {}
    for subject in (each for each in example.subjects if not each.tuned):
        adapter, began = pair.adapters[subject.task], time.process_time()
        starts = {}
        for name, plan in plans.items():
            (result,) = convert_adapters(plan, [adapter], target=pair.target.base)
            if isinstance(result, Conversion):
                starts[name] = completed(result.adapter, adapter, pair.target.base, matches)
        outcome = refresh(*models, adapter, {name: each for name, each in starts.items() if each.updates}, settings)
        found[subject.task], seconds[subject.task] = outcome.adapter, time.process_time() - began
        steps, gains = outcome.history[-1].step, (outcome.start.gain, outcome.best.gain)
        print(
            f"  {subject.task}: {steps} steps from {outcome.started_from}, gain {gains[0]:.2f} -> {gains[1]:.2f}",
            flush=True,
        )
    return Made(found, seconds, planned)


def show(found: Sequence[Cell], console: Console) -> None:
    """Prints a table per pair, over the adapters that nothing was tuned on."""
    for target in dict.fromkeys(cell.target for cell in found):
        own = [cell for cell in found if cell.target == target]
        table = Table(title=f"{own[0].source} -> {target} ({own[0].relation})")
        for column in COLUMNS:
            table.add_column(column, justify="left" if column == "method" else "right")
        for row in rows_of(own):
            table.add_row(*row)
        console.print(table)


def main() -> None:
    """Measures what is missing and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    everything = [example() for example in (texts.example, digits.example)]
    parser.add_argument("--targets", default=",".join(target for each in everything for target in each.targets))
    parser.add_argument("--methods", default=";".join([*METHODS, NATIVE, CEILING, REFRESH, QUICK]))
    parser.add_argument("--again", action="store_true", help="measure anew what is in the results already")
    parser.add_argument("--results", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    results = Results(chosen.results)
    wanted = chosen.targets.split(",")
    for example in everything:
        for target in (name for name in example.targets if name in wanted):
            measure(Pair(example, target), chosen.methods.split(";"), results, again=chosen.again)
    show([cell for cell in results.cells.values() if cell.target in wanted], Console(width=160))


if __name__ == "__main__":
    main()
