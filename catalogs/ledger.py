"""The provenance log: an append-only table of facts in DuckDB, hash-chained, with one writer and any number of readers.

Facts come in as `(kind, subject, body)`. Each is one row of `event`; the views of `ledger_views.sql` turn them into
tables to ask. What `append_many` has returned from survives a SIGKILL; what was lost all the same is noticed at the
next `Ledger.open` by the hash chain and the file `ledger.head`.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import duckdb

from catalogs.errors import Stop
from catalogs.hash_chain import Event, Head, chain_event, follow_chain, gap_text, read_head, write_head
from catalogs.ledger_migrations import migrate, migrations, quoted
from catalogs.ledger_reader import COLUMNS, Reader, events_in, insert_events, open_reader, snapshot_path
from catalogs.store import sync_folder

__all__ = ["DATABASE", "Fact", "Ledger", "Reader", "open_reader", "utc_now"]

Fact = tuple[str, str, Mapping[str, object]]
"""(kind, subject, body): what happened, to what, and everything worth knowing about it as JSON values."""

DATABASE: Final = "ledger.duckdb"
LOCKED: Final = re.compile(r"lock on file.*?(?:\(PID (\d+)\)|$)", re.DOTALL)
WAIT_SECONDS: Final = 0.1

_open_here: set[Path] = set()


def utc_now() -> str:
    """Returns the present time in UTC, ISO 8601 with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


class Ledger:
    """The one writer of a ledger. Safe to use from several threads; a context manager that closes it."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, *, path: Path | None, run_id: str, clock: Callable[[], str]
    ) -> None:
        """Takes over a migrated connection; use `open` or `in_memory`."""
        self.run_id = run_id
        self._connection = connection
        self._path = path
        self._clock = clock
        self._lock = threading.RLock()
        self._head = Head()

    @classmethod
    def open(
        cls, path: Path, *, run_id: str = "", clock: Callable[[], str] = utc_now, patience_seconds: float = 2.0
    ) -> Ledger:
        """Opens a ledger for writing, or makes one; verifies the whole chain, then leaves a snapshot for readers.

        Raises Stop when another process writes to it (readers hold it for moments only: `patience_seconds`), when it
        was altered, or when it ends before `ledger.head`.
        """
        path = path.resolve()
        if path in _open_here:
            raise Stop(f"{path}: this process writes to it already; use the Ledger that is open")
        path.parent.mkdir(parents=True, exist_ok=True)
        head = read_head(_head_path(path))
        if not path.exists():
            if head is not None and head.sequence:
                raise Stop(gap_text(head, Head(), where=str(path)))
            head = Head()
            write_head(_head_path(path), head)
        connection = _connect(path, time.monotonic() + patience_seconds)
        ledger = cls(connection, path=path, run_id=run_id, clock=clock)
        try:
            migrate(connection, path, steps=migrations(), recorded_at=clock())
            ledger._verify(head)
            ledger.snapshot()
        except duckdb.Error as problem:
            connection.close()
            raise Stop(f"{path}: is damaged ({problem}). Put it back from a backup") from problem
        except BaseException:
            connection.close()
            raise
        _open_here.add(path)
        return ledger

    @classmethod
    def in_memory(cls, reader: Reader | None = None, *, run_id: str = "", clock: Callable[[], str] = utc_now) -> Ledger:
        """Makes a ledger that leaves no trace, holding a reader's facts where one is given: for dry runs and tests."""
        connection = duckdb.connect(":memory:")
        migrate(connection, Path(":memory:"), steps=migrations(), recorded_at=clock())
        ledger = cls(connection, path=None, run_id=run_id, clock=clock)
        if reader is not None:
            ledger._insert(reader.events())
        return ledger

    @property
    def head(self) -> Head:
        """How far the ledger reaches."""
        return self._head

    def append(self, kind: str, subject: str, body: Mapping[str, object]) -> Event:
        """Adds one fact; it is on disk when this returns."""
        return self.append_many([(kind, subject, body)])[0]

    def append_many(self, facts: Iterable[Fact]) -> tuple[Event, ...]:
        """Adds facts in one transaction, all or none; they are on disk, and the head is, when this returns."""
        with self._lock:
            events: list[Event] = []
            head = self._head
            for kind, subject, body in facts:
                event = chain_event(
                    head, recorded_at=self._clock(), run_id=self.run_id, kind=kind, subject=subject, body=body
                )
                events.append(event)
                head = Head(event.sequence, event.hash)
            self._insert(events)
            return tuple(events)

    def rows(self, sql: str, parameters: Sequence[object] = ()) -> list[dict[str, object]]:
        """Asks the ledger as it is now; returns rows by column name. For the program's own questions."""
        with self._lock:
            answer = self._connection.execute(sql, list(parameters))
            names = [column[0] for column in answer.description or ()]
            return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]

    def reader(self) -> Reader:
        """Returns a reader of everything recorded so far; later facts do not appear in it."""
        with self._lock:
            return Reader(events_in(self._connection, "event"), is_snapshot=False)

    def snapshot(self) -> Path | None:
        """Replaces `ledger.parquet`, which readers use while this writer holds the file; None for one in memory."""
        if self._path is None:
            return None
        with self._lock:
            target = snapshot_path(self._path)
            part = target.with_name(target.name + ".part")
            facts = f"SELECT {', '.join(COLUMNS)} FROM event ORDER BY sequence"  # noqa: S608
            self._connection.execute(f"COPY ({facts}) TO {quoted(str(part))} (FORMAT parquet)")
            part.replace(target)
            sync_folder(target.parent)
            return target

    def close(self) -> None:
        """Writes a last snapshot, folds the write-ahead log into the file and gives it free. Closing twice is fine."""
        with self._lock:
            if self._path is not None and self._path in _open_here:
                self.snapshot()
                self._connection.execute("CHECKPOINT")
                _open_here.discard(self._path)
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _insert(self, events: Sequence[Event]) -> None:
        if not events:
            return
        self._connection.execute("BEGIN")
        try:
            insert_events(self._connection, events)
            self._connection.execute("COMMIT")
        except duckdb.Error as problem:
            with contextlib.suppress(duckdb.Error):  # a commit that failed has rolled back by itself
                self._connection.execute("ROLLBACK")
            raise Stop(f"{self._path}: cannot be written ({problem}); nothing of this step was recorded") from problem
        self._head = Head(events[-1].sequence, events[-1].hash)
        if self._path is not None:
            write_head(_head_path(self._path), self._head)

    def _verify(self, head: Head | None) -> None:
        events = events_in(self._connection, "event")
        if head is None and events:
            raise Stop(
                f"{self._path}: holds {len(events)} events, but ledger.head beside it is gone, so nothing "
                "tells whether that is all of them. Put ledger.head back from a backup, or move all files named "
                "ledger.* away."
            )
        self._head = follow_chain(events, head=head or Head(), where=str(self._path))
        if self._head != head and self._path is not None:
            write_head(_head_path(self._path), self._head)


def _head_path(path: Path) -> Path:
    return path.with_name("ledger.head")


def _connect(path: Path, deadline: float) -> duckdb.DuckDBPyConnection:
    while True:
        try:
            return duckdb.connect(str(path))
        except duckdb.Error as problem:
            locked = LOCKED.search(str(problem))
            if not locked:
                raise Stop(f"{path}: cannot be opened as a ledger ({problem}). Put it back from a backup") from problem
            if time.monotonic() > deadline:
                raise Stop(_locked_text(path, locked.group(1))) from problem
        time.sleep(WAIT_SECONDS)


def _locked_text(path: Path, pid: str | None) -> str:
    who = f"process {pid}" if pid else "another process"
    return (
        f"{path}: {who} is writing to this ledger, and a ledger has one writer. Wait until that migration has ended, "
        f"stop it{f' (kill {pid})' if pid else ''}, or use another data folder (--data)."
    )
