"""Where the seconds of a run went: into each stage's work, into the ledger, or into Prefect."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

Interval = tuple[float, float]
LEDGER = "ledger"
PREFECT = "prefect"


@dataclass(slots=True)
class Stopwatch:
    """Adds up seconds by name. `began` is when the command started, where that was before the flow did."""

    began: float = field(default_factory=time.time)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measuring(self, name: str) -> Iterator[None]:
        """Adds the length of the block to `name`."""
        began = time.time()
        try:
            yield
        finally:
            self.add(name, time.time() - began)

    def add(self, name: str, seconds: float) -> None:
        """Adds seconds to `name`."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def add_work(self, name: str, intervals: Iterable[Interval]) -> None:
        """Adds the time during which at least one worker was busy: overlapping intervals count once."""
        self.add(name, covered(intervals))

    def totals(self, *, now: float | None = None) -> dict[str, float]:
        """Returns seconds by name, `total` since the beginning, and as `prefect` all that nothing else accounts for."""
        total = (time.time() if now is None else now) - self.began
        known = {name: round(seconds, 3) for name, seconds in self.seconds.items()}
        return {**known, PREFECT: round(max(0.0, total - sum(self.seconds.values())), 3), "total": round(total, 3)}


_running: ContextVar[Stopwatch | None] = ContextVar("stopwatch", default=None)


def stopwatch() -> Stopwatch:
    """Returns the stopwatch that the command line has started, else one that starts now."""
    return _running.get() or Stopwatch()


@contextmanager
def timed_by(watch: Stopwatch) -> Iterator[None]:
    """Makes `watch` the stopwatch of whatever runs inside the block."""
    token = _running.set(watch)
    try:
        yield
    finally:
        _running.reset(token)


def covered(intervals: Iterable[Interval]) -> float:
    """Returns the length of the union of intervals."""
    length, reached = 0.0, float("-inf")
    for began, ended in sorted(intervals):
        length += max(0.0, ended - max(began, reached))
        reached = max(reached, ended)
    return length
