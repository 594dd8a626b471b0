"""One run of a migration: its ledger, its watcher, its stopwatch, and the way in which shards are run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from prefect import Task
from prefect.futures import PrefectFuture, as_completed

import catalogs.errors
import lorax.errors
from catalogs.ledger import Fact, Ledger
from flows.folders import Folders
from flows.journal import Journal
from flows.progress import Stage, Watcher
from flows.run_facts import new_run_id, run_started
from flows.settings import Migration
from flows.stopwatch import LEDGER, Stopwatch
from flows.to_do import Item
from tasks.border import Ended, unexpected
from tasks.ticks import listening

T = TypeVar("T")
STOPS = (catalogs.errors.Stop, lorax.errors.Stop)
SHOWN_NAMES = 2


def always() -> bool:
    """Says yes."""
    return True


@dataclass(slots=True)
class Run:
    """A run in progress. Only this object writes to the ledger, and its first words are that the run has started."""

    run_id: str
    migration: Migration
    folders: Folders
    ledger: Ledger
    watcher: Watcher
    watch: Stopwatch
    has_begun: bool = False
    refresh_seconds: float = 0.0
    """Spent on refreshes so far, of all pairs together."""

    @property
    def journal(self) -> Journal:
        """Answers about all work so far, this run's included."""
        return Journal(self.ledger)

    def begin(self) -> None:
        """Notes that the run has started, where nothing has been noted yet."""
        if not self.has_begun:
            self.has_begun = True
            self.record([run_started(self.run_id, self.migration)])

    def record(self, facts: Sequence[Fact]) -> None:
        """Appends facts in one transaction."""
        if facts:
            self.begin()
            with self.watch.measuring(LEDGER):
                self.ledger.append_many(facts)

    def here(self, stage: str, task: Task[..., Any], /, **arguments: Any) -> Any:  # noqa: ANN401 - the task's own result
        """Runs one task in this process, as a stage of one item, and returns its result."""
        with self.watcher.stage(stage, 1):
            timed = task(**arguments)
        self.watch.add_work(stage, [(timed["began"], timed["ended"])])
        return timed["result"]

    def elsewhere(self, stage: str, task: Task[..., Any], /, **arguments: Any) -> Any | Ended:  # noqa: ANN401
        """Runs one task where shards run and returns its result, or why its worker failed."""
        intervals: list[tuple[float, float]] = []
        with self.watcher.stage(stage, 1):
            result = _result(task.submit(**arguments), intervals)
        self.watch.add_work(stage, intervals)
        return result

    def shards(
        self,
        stage: str,
        task: Task[..., Any],
        items: Sequence[Item],
        *,
        size: int,
        arguments: Callable[[Sequence[Item]], dict[str, Any]],
        settle: Callable[[Sequence[Item], list[Any] | Ended], None],
        admits: Callable[[], bool] = always,
    ) -> list[Item]:
        """Runs a task over shards of `items` and hands each shard's records to `settle` as soon as they are there.

        A shard that fails as a whole comes with the record of why instead. lorax's and catalogs' Stop end the run.
        admits: asked before each shard begins; where it says no, it is asked again when another one has ended. Returns
        the items of shards that never began.
        """
        if not items:
            return []
        intervals: list[tuple[float, float]] = []
        shards = _Shards(task, items, size=size, arguments=arguments)
        with self.watcher.stage(stage, len(items)) as bar, _ticking(stage, bar):
            done = 0
            for shard, future in shards.ended(admits):
                settle(shard, _result(future, intervals))
                done += len(shard)
                bar.reach(done)
        self.watch.add_work(stage, intervals)
        return [item for _, shard in shards.waiting for item in shard]


class _Shards:
    """Shards of a stage: those that wait, and those that run."""

    def __init__(
        self,
        task: Task[..., Any],
        items: Sequence[Item],
        *,
        size: int,
        arguments: Callable[[Sequence[Item]], dict[str, Any]],
    ) -> None:
        parts = [items[start : start + size] for start in range(0, len(items), size)]
        self._task, self._arguments, self._count = task, arguments, len(parts)
        self.waiting = deque(enumerate(parts, start=1))
        self._running: dict[PrefectFuture[Any], Sequence[Item]] = {}

    def ended(self, admits: Callable[[], bool]) -> Iterator[tuple[Sequence[Item], PrefectFuture[Any]]]:
        """Begins shards as long as they are admitted and gives each that has ended, until none runs any more."""
        while self._begin(admits):
            for future in as_completed(list(self._running)):
                yield self._running.pop(future), future
                if self.waiting:
                    break  # what has ended may have made room for another one

    def _begin(self, admits: Callable[[], bool]) -> bool:
        """Begins what is admitted; tells whether anything runs."""
        while self.waiting and admits():
            number, part = self.waiting.popleft()
            label = label_of(part, number=number, count=self._count)
            self._running[_named(self._task, label).submit(**self._arguments(part))] = part
        return bool(self._running)


@contextmanager
def opened(migration: Migration, folders: Folders, *, watcher: Watcher, watch: Stopwatch) -> Iterator[Run]:
    """Yields a run on the ledger of a data folder; raises catalogs.errors.Stop where another run has it."""
    run_id = new_run_id()
    with watch.measuring(LEDGER):
        ledger = Ledger.open(folders.ledger, run_id=run_id)
    try:
        yield Run(run_id, migration, folders, ledger, watcher, watch)
    finally:
        with watch.measuring(LEDGER):
            ledger.close()


def label_of(shard: Sequence[Item], *, number: int, count: int) -> str:
    """Returns a shard's name for people, such as `2/3: bold, thin, +6`."""
    names = [item.name for item in shard[:SHOWN_NAMES]]
    rest = len(shard) - len(names)
    return f"{number}/{count}: {', '.join([*names, *([f'+{rest}'] if rest else [])])}"


def _named(task: Task[..., Any], label: str) -> Task[..., Any]:
    """Returns the task under a name for people. A function, since in a text braces would be taken for parameters."""
    return task.with_options(task_run_name=lambda: f"{task.name} {label}")


@contextmanager
def _ticking(stage: str, bar: Stage) -> Iterator[None]:
    """Moves a stage's bar within shards, where they run in this process."""
    done = 0.0

    def listener(name: str, share: float) -> None:
        nonlocal done
        if name == stage:
            done += share
            bar.reach(done)

    with listening(listener):
        yield


def _result(future: PrefectFuture[Any], intervals: list[tuple[float, float]]) -> Any | Ended:  # noqa: ANN401
    """Returns the result of a task and notes when it worked; or why it failed as a whole."""
    try:
        timed = future.result()
    except STOPS:
        raise
    except Exception as problem:  # noqa: BLE001 - a worker died or its task has a defect: the others go on
        return unexpected(problem)
    intervals.append((timed["began"], timed["ended"]))
    return timed["result"]
