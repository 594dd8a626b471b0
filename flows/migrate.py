"""The flow `migrate`: an entry, if allowed, becomes a stored file, is read, converted, scored and published."""

from __future__ import annotations

import tomllib
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, runtime
from prefect.artifacts import create_link_artifact, create_table_artifact

from catalogs.ledger import utc_now
from flows.engine import make_task_runner, read_engine
from flows.escalation import may_be_refreshed, refresh_rejected
from flows.folders import Folders
from flows.guard import check_packages
from flows.outcomes import outcome_of_ending
from flows.progress import watcher
from flows.publication import publish_conversions, reconcile
from flows.run import Run, opened
from flows.settings import data_folder, load_migration
from flows.stages import (
    convert_adapters,
    crawl_catalogue,
    group_by_pair,
    prepare_plans,
    read_adapters,
    score_conversions,
)
from flows.states import reasons
from flows.stopwatch import stopwatch
from flows.summary import Row, counts_of, plain_table, rows_of
from flows.to_do import ToDo
from flows.unscored import require_runnable, settle_unscored
from tasks.border import Ended
from tasks.crash_points import BEFORE_REPORT, BEFORE_RUN_FINISHED, crash_point
from tasks.record import record


def flow_run_name() -> str:
    """Returns a name that people recognise, such as `digits-v1-to-v2 2026-11-22 08:15`."""
    file = Path(str(runtime.flow_run.parameters["migration"]))
    try:
        name = str(tomllib.loads(file.read_text(encoding="utf-8"))["name"])
    except (OSError, ValueError, KeyError):
        name = file.stem
    return f"{name} {runtime.flow_run.scheduled_start_time:%Y-%m-%d %H:%M}"


@flow(
    name="migrate",
    flow_run_name=flow_run_name,
    task_runner=make_task_runner(read_engine()),
    persist_result=False,
    retries=0,
)
def migrate(migration: Path, data: Path | None = None) -> dict[str, Any]:
    """Moves a catalogue of adapters to another base model, as one settings file says.

    Returns the run's id (None where there was nothing to do), the entries and how many are in each state, and the
    report's path.
    The ledger in the data folder decides what is done: a run goes on where an earlier one stopped.
    """
    check_packages()
    settings = load_migration(migration)
    folders = Folders(data_folder(data))
    logger = get_run_logger()
    require_runnable(settings)
    with opened(settings, folders, watcher=watcher(logger.info), watch=stopwatch()) as run:
        was_cut_short = run.journal.was_cut_short(settings.name)
        reconcile(run)
        todo = crawl_catalogue(run)
        if not (todo.has_work or was_cut_short or run.has_begun):
            return _nothing_to_do(run, todo)
        run.begin()
        _work_on(run, todo)
        return _finish(run, todo)


def _work_on(run: Run, todo: ToDo) -> None:
    """Takes the items through all stages; each ends with an outcome in the ledger."""
    readable = read_adapters(run, todo.open_items)
    for pair, items in group_by_pair(run, readable, todo.settled):
        prepared = prepare_plans(run, pair)
        if isinstance(prepared, Ended):
            run.record([outcome_of_ending(item, prepared) for item in items])
            continue
        goes_on = partial(may_be_refreshed, run.migration, prepared)
        converted = convert_adapters(run, prepared, items, dialect=pair.dialect, goes_on=goes_on)
        if prepared["not_runnable"]:
            settle_unscored(run, prepared, converted)
            continue
        passed = score_conversions(run, prepared, converted, goes_on=goes_on)
        publish_conversions(run, passed)
        publish_conversions(run, refresh_rejected(run, pair, prepared, items))
    crash_point(BEFORE_REPORT)


def _finish(run: Run, todo: ToDo) -> dict[str, Any]:
    """Writes the report, shows the summary in Prefect, and notes the end of the run."""
    rows = rows_of(run.journal, todo.work_keys)
    run.ledger.snapshot()
    report = run.here(
        "report",
        record,
        data=str(run.folders.data),
        run_id=run.run_id,
        path=str(run.folders.reports / f"{run.run_id}.html"),
        seconds=run.watch.totals(),
        finished_at=utc_now(),
        reasons=reasons(),
    )
    _show_in_prefect(rows, Path(report))
    crash_point(BEFORE_RUN_FINISHED)
    body = {"states": counts_of(rows), "seconds": run.watch.totals(), "report": report}
    run.record([("run_finished", run.run_id, body)])
    return _result(run, rows, Path(report))


def _nothing_to_do(run: Run, todo: ToDo) -> dict[str, Any]:
    get_run_logger().info(f"nothing to do: all {len(todo.work_keys)} entries are settled")
    report = run.folders.latest_report
    return _result(run, rows_of(run.journal, todo.work_keys), report if report.exists() else None)


def _result(run: Run, rows: list[Row], report: Path | None) -> dict[str, Any]:
    return {
        "run_id": run.run_id if run.has_begun else None,
        "states": counts_of(rows),
        "entries": [asdict(row) for row in rows],
        "report": str(report) if report is not None else None,
    }


def _show_in_prefect(rows: list[Row], report: Path) -> None:
    create_table_artifact(key="migration-summary", table=plain_table(rows), description="What became of every entry.")
    create_link_artifact(key="migration-report", link=report.as_uri(), link_text=report.name)
