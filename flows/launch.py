"""Starts a migration from the command line: asks whether there is work, then runs the flow on a Prefect API."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from catalogs.errors import NOT_SCORED
from catalogs.ledger import Ledger, open_reader
from flows.engine import read_engine
from flows.folders import Folders
from flows.journal import Journal
from flows.progress import Bars, Lines, Watcher, watched_by
from flows.server import configured_api, prefect_api, without_heartbeat
from flows.settings import Migration, data_folder, load_migration
from flows.states import FAILED
from flows.stopwatch import Stopwatch, timed_by
from flows.summary import Row, console_for, print_counts, print_summary

DONE, SOME_FAILED, INTERRUPTED = 0, 1, 130
SHOW_CURSOR = b"\x1b[?25h"
IMPORTS = "imports"


def run_migration(file: Path, data: Path | None) -> int:
    """Runs a migration and shows it; returns the exit status: 0, or 1 where entries failed."""
    watch = Stopwatch()
    settings = load_migration(file)
    read_engine()
    folders = Folders(data_folder(data))
    console = console_for(sys.stdout)
    with _interruptible():
        if configured_api() is None:
            Ledger.open(folders.ledger).close()  # says at once, before a server is started, that another run has it
            settled = _all_settled(settings, folders)
            if settled is not None:
                return _show_nothing_to_do(console, folders, settled)
        with ExitStack() as stack:
            with console.status("starting: Prefect, torch, diffusers") if console.is_terminal else nullcontext():
                stack.enter_context(prefect_api(folders.data, meanwhile=lambda: _import_what_computes(watch)))
            result = _run_flow(file, folders, console, watch)
        return _show_result(console, folders, result)


def run_dry(file: Path, data: Path | None) -> int:
    """Shows what a migration would do to each adapter; writes nothing but the report of that."""
    from flows.dry_run import dry_run

    return dry_run(load_migration(file), Folders(data_folder(data)), console_for(sys.stdout))


def _all_settled(settings: Migration, folders: Folders) -> list[Row] | None:
    """Returns the rows of all entries where none needs work; None where the flow has to run. Needs no Prefect."""
    journal = Journal(open_reader(folders.data))
    if journal.was_cut_short(settings.name):
        return None
    from flows.summary import rows_of
    from flows.to_do import find_work, unconfirmed

    todo = find_work(settings, folders, journal, remember=True)
    if todo.has_work or unconfirmed(journal, settings, folders):
        return None
    return rows_of(journal, todo.work_keys)


def _import_what_computes(watch: Stopwatch) -> None:
    with watch.measuring(IMPORTS):
        import tasks.warm_up  # noqa: F401


def _run_flow(file: Path, folders: Folders, console: Console, watch: Stopwatch) -> dict[str, Any]:
    from flows.migrate import migrate

    bars = Bars(console) if console.is_terminal else None
    who: Watcher = bars or Lines(lambda line: console.print(line, markup=False))
    shown: AbstractContextManager[None] = bars.shown() if bars else nullcontext()
    with without_heartbeat(), timed_by(watch), watched_by(who), shown:
        result: dict[str, Any] = migrate(migration=file.absolute(), data=folders.data)
    return result


def _show_result(console: Console, folders: Folders, result: dict[str, Any]) -> int:
    rows = [Row(**values) for values in result["entries"]]
    if result["run_id"] is None:
        return _show_nothing_to_do(console, folders, rows)
    print_summary(console, rows)
    if unscored := sum(row.reason == NOT_SCORED for row in rows):
        console.print(f"{unscored} could not be scored and are kept, never published: lorax query not-scored")
    _print_last_line(console, result["report"])
    return SOME_FAILED if result["states"][FAILED] else DONE


def _show_nothing_to_do(console: Console, folders: Folders, rows: list[Row]) -> int:
    console.print(f"nothing to do: all {len(rows)} entries are settled, and nothing about them has changed")
    print_counts(console, rows)
    if folders.latest_report.exists():
        _print_last_line(console, folders.latest_report)
    return DONE


def _print_last_line(console: Console, report: Path | str) -> None:
    console.print(str(report), soft_wrap=True, markup=False, style="bold" if console.is_terminal else "")


@contextmanager
def _interruptible() -> Iterator[None]:
    """Makes Ctrl-C end the run at once, with one line."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Ends the process. Every step is safe to be cut anywhere; an orderly end would wait for shards that compute."""
    if os.isatty(1):
        os.write(1, SHOW_CURSOR)  # which the progress bars hide
    os.write(2, b"\ninterrupted: the same command goes on where this run stopped\n")
    os._exit(INTERRUPTED)
