"""Reading a ledger without ever standing in its writer's way: a reader takes a copy of the facts and lets go.

The copy lives in an in-memory database without access to files or the network, so that any question may be asked.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import duckdb

from catalogs.errors import Stop
from catalogs.hash_chain import Event, Head, follow_chain, gap_text, read_head
from catalogs.ledger_migrations import migrations, quoted, views_sql

if TYPE_CHECKING:  # pandas takes a second to import, and only answers as data frames need it
    import pandas as pd

COLUMNS: Final = ("sequence", "recorded_at", "run_id", "kind", "subject", "body", "previous_hash", "hash")


class Reader:
    """A copy of a ledger's facts, with all views, to ask questions of.

    `is_snapshot` says that a writer held the ledger, so that this is its last snapshot, possibly minutes old.
    """

    def __init__(self, events: Sequence[Event], *, is_snapshot: bool) -> None:
        """Takes the facts in order of their sequence; `open_reader` finds them."""
        self.is_snapshot = is_snapshot
        self._connection = duckdb.connect(":memory:")
        for step in migrations():
            self._connection.execute(step.sql)
        self._connection.execute(views_sql())
        if events:
            insert_events(self._connection, events)
        self._connection.execute("SET enable_external_access = false")
        self._connection.execute("SET lock_configuration = true")

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """The in-memory database itself. What is written there is gone when the reader is."""
        return self._connection

    def events(self) -> tuple[Event, ...]:
        """Returns every fact in the order in which it was recorded."""
        return events_in(self._connection, "event")

    def rows(self, sql: str, parameters: Sequence[object] = ()) -> list[dict[str, object]]:
        """Answers one question; returns rows by column name."""
        answer = self._connection.execute(sql, list(parameters))
        names = [column[0] for column in answer.description or ()]
        return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]

    def frame(self, sql: str) -> pd.DataFrame:
        """Answers one question; returns a data frame."""
        return self._connection.execute(sql).df()


def open_reader(data_folder: Path) -> Reader:
    """Opens the ledger of a data folder for reading: the live file, or its last snapshot while a writer holds it.

    Raises Stop when there is no ledger yet, when it does not reach its head, or when it cannot be read at all.
    """
    path = data_folder.resolve() / "ledger.duckdb"
    if not path.exists():
        if snapshot_path(path).exists() or read_head(path.with_name("ledger.head")) not in (None, Head()):
            raise Stop(f"{path}: is gone, but files beside it say that it held facts. Put it back from a backup")
        raise Stop(_nothing_yet(data_folder))
    # Read before the facts are: the writer may add some in between, and a head can only be behind them, never ahead.
    head = read_head(path.with_name("ledger.head"))
    try:
        events = _live_events(path)
    except duckdb.CatalogException as problem:  # a first run was killed before it made its table
        raise Stop(_nothing_yet(data_folder)) from problem
    except duckdb.Error as problem:
        if not _is_held(problem):
            raise Stop(f"{path}: cannot be read as a ledger ({problem}). Put it back from a backup") from problem
        return Reader(_snapshot_events(path, problem), is_snapshot=True)
    end = Head(events[-1].sequence, events[-1].hash) if events else Head()
    if (
        head is not None
        and head.sequence
        and (len(events) < head.sequence or events[head.sequence - 1].hash != head.hash)
    ):
        raise Stop(gap_text(head, end, where=str(path)))
    return Reader(events, is_snapshot=False)


def snapshot_path(path: Path) -> Path:
    """Returns where the snapshot of a ledger file lies."""
    return path.with_suffix(".parquet")


def _nothing_yet(data_folder: Path) -> str:
    return f"no ledger here yet: {data_folder} holds none; run `lorax migrate` first, or name another folder (--data)"


def _is_held(problem: duckdb.Error) -> bool:
    """Whether the file is sound but in the hands of a writer: another process, or this one."""
    text = str(problem)
    return "lock on file" in text or "file handle conflict" in text or "already attached" in text


def events_in(connection: duckdb.DuckDBPyConnection, table: str) -> tuple[Event, ...]:
    """Returns the events of a table or table function, in the order of their sequence."""
    rows = connection.execute(f"SELECT {', '.join(COLUMNS)} FROM {table} ORDER BY sequence").fetchall()  # noqa: S608
    return tuple(Event(*row) for row in rows)


def insert_events(connection: duckdb.DuckDBPyConnection, events: Sequence[Event]) -> None:
    """Adds events to the table `event`: one statement, however many they are."""
    columns = [[getattr(event, name) for event in events] for name in COLUMNS]
    slots = ", ".join("unnest(?)" for _ in COLUMNS)
    connection.execute(f"INSERT INTO event ({', '.join(COLUMNS)}) SELECT {slots}", columns)


def _live_events(path: Path) -> tuple[Event, ...]:
    connection = duckdb.connect(":memory:")
    try:
        connection.execute(f"ATTACH {quoted(str(path))} AS live (READ_ONLY)")
        return events_in(connection, "live.event")
    finally:
        connection.close()


def _snapshot_events(path: Path, problem: duckdb.Error) -> tuple[Event, ...]:
    snapshot = snapshot_path(path)
    if not snapshot.exists():
        raise Stop(f"{path}: its writer has not left a snapshot yet; ask again in a moment ({problem})") from problem
    connection = duckdb.connect(":memory:")
    try:
        # The writer may replace the snapshot while it is read, and DuckDB opens a file more than once: read a copy.
        with tempfile.TemporaryDirectory(prefix="lorax-reader-") as folder:
            copy = Path(shutil.copy(snapshot, folder))
            events = events_in(connection, f"read_parquet({quoted(str(copy))})")
    except duckdb.Error as broken:
        raise Stop(f"{snapshot}: cannot be read ({broken}); ask again when the migration has ended") from broken
    finally:
        connection.close()
    follow_chain(events, head=Head(), where=str(snapshot))
    return events
