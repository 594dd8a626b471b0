"""Rows of the fidelity tables, made of measured cells; no model is opened here, so that the docs can be written."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, quantiles

RESAMPLES = 4000
COLUMNS = ("method", "R", "95 %", "worst", "best", "drift / native's", "s", "than retraining", "R, tuned half")


@dataclass(frozen=True)
class Cell:
    """One adapter carried to one target by one method.

    lift: R, and error: its standard error over held-out samples; drift: what the adapter adds to the loss on neutral
    samples, native_drift: what natives add; seconds: for this adapter alone.
    """

    example: str
    source: str
    target: str
    relation: str
    task: str
    tuned: bool
    method: str
    control: bool
    lift: float
    error: float
    drift: float
    native_drift: float
    seconds: float
    plan_seconds: float
    retraining_seconds: float

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What no two cells share."""
        return (self.example, self.target, self.method, self.task)


def interval(cells: Sequence[Cell]) -> tuple[float, float]:
    """Returns the 95 % interval of the mean R: adapters are drawn with replacement, and each moved by its own error."""
    chance = random.Random(0)
    means = [
        mean(cell.lift + chance.gauss(0.0, cell.error) for cell in chance.choices(cells, k=len(cells)))
        for _ in range(RESAMPLES)
    ]
    cuts = quantiles(means, n=40)
    return cuts[0], cuts[-1]


def rows_of(cells: Sequence[Cell]) -> list[tuple[str, ...]]:
    """Returns one row per method of one pair, best first, controls last.

    Columns, as in COLUMNS: method, mean R, its interval, worst and best adapter, drift over that of natives, seconds
    for an adapter, how many times faster than retraining, and mean R on the adapters that settings were chosen on.
    """
    by_method: dict[str, list[Cell]] = {}
    for cell in cells:
        by_method.setdefault(cell.method, []).append(cell)
    rows = []
    for method, own in by_method.items():
        fresh, tuned = [cell for cell in own if not cell.tuned], [cell for cell in own if cell.tuned]
        shown = fresh or tuned
        rows.append((shown[0].control, -mean(cell.lift for cell in shown), _row(method, shown, tuned)))
    return [row for _, _, row in sorted(rows)]


def _row(method: str, shown: Sequence[Cell], tuned: Sequence[Cell]) -> tuple[str, ...]:
    low, high = interval(shown)
    drift = sum(cell.drift for cell in shown) / sum(cell.native_drift for cell in shown)
    seconds = mean(cell.seconds for cell in shown)
    faster = mean(cell.retraining_seconds for cell in shown) / seconds if seconds else 0.0
    return (
        method,
        _number(mean(cell.lift for cell in shown)),
        f"{_number(low)} to {_number(high)}",
        _number(min(cell.lift for cell in shown)),
        _number(max(cell.lift for cell in shown)),
        _number(drift),
        f"{seconds:.3f}" if seconds < 1 else f"{seconds:.0f}",
        f"{faster:.0f}x faster" if faster >= 1.5 else f"{1 / faster:.1f}x as long" if faster else "",
        _number(mean(cell.lift for cell in tuned)) if tuned else "",
    )


def _number(value: float) -> str:
    """Writes .83, -.06, 1.02."""
    shown = f"{value:.2f}"
    return ".00" if shown == "-0.00" else shown.replace("0.", ".", 1) if abs(value) < 1 else shown
