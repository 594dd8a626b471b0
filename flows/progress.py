"""How far a run is, for people: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

LABEL_WIDTH = 9


class Stage(Protocol):
    """One stage of a run, while it runs."""

    def reach(self, done: float, detail: str = "") -> None:
        """Shows that `done` of the stage's items are finished."""
        ...


class Watcher(Protocol):
    """Somebody who is told about stages."""

    def stage(self, name: str, total: int) -> AbstractContextManager[Stage]:
        """Opens a stage of `total` items."""
        ...

    def say(self, line: str) -> None:
        """Shows one line of text."""
        ...


@dataclass(slots=True)
class _LineStage:
    def reach(self, done: float, detail: str = "") -> None:
        """Shows nothing: a line when the stage is over is enough."""


@dataclass(slots=True)
class Lines:
    """Writes one plain line when a stage is over. For logs and pipes."""

    write: Callable[[str], None]

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Stage]:
        """Opens a stage; its line appears when it closes, with the time it took."""
        began = time.monotonic()
        yield _LineStage()
        self.write(f"{name:<{LABEL_WIDTH}} {total} done in {time.monotonic() - began:.1f} s")

    def say(self, line: str) -> None:
        """Writes the line."""
        self.write(line)


@dataclass(slots=True)
class _BarStage:
    bars: Progress
    task: TaskID

    def reach(self, done: float, detail: str = "") -> None:
        """Moves the bar."""
        self.bars.update(self.task, completed=done, detail=detail)


@dataclass(slots=True)
class Bars:
    """Draws one bar per stage on a terminal."""

    console: Console
    bars: Progress = field(init=False)

    def __post_init__(self) -> None:
        self.bars = Progress(
            TextColumn(f"{{task.description:<{LABEL_WIDTH}}}"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[detail]}"),
            console=self.console,
        )

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Stage]:
        """Opens a stage with a bar of `total` items, full when the stage closes."""
        task = self.bars.add_task(name, total=total, detail="")
        stage = _BarStage(self.bars, task)
        yield stage
        stage.reach(total)

    def say(self, line: str) -> None:
        """Prints the line above the bars."""
        self.console.print(line, highlight=False)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Keeps the bars on the screen for the length of the block."""
        with self.bars:
            yield


_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


def watcher(otherwise: Callable[[str], None]) -> Watcher:
    """Returns who is watching the current run; nobody in particular gets lines written by `otherwise`."""
    return _watcher.get() or Lines(otherwise)


@contextmanager
def watched_by(who: Watcher) -> Iterator[None]:
    """Makes `who` the watcher of whatever runs inside the block."""
    token = _watcher.set(who)
    try:
        yield
    finally:
        _watcher.reset(token)
