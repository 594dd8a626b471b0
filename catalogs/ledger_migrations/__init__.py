"""Numbered changes of the ledger's schema, each applied once, in one transaction with the row that records it.

A checkpoint follows each of them, so the write-ahead log never holds a change of the schema: replaying those is where
databases have had their bugs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

VIEWS = Path(__file__).parent.parent / "ledger_views.sql"


@dataclass(frozen=True, slots=True)
class Migration:
    """One change of the schema: its file name without the ending, and its statements."""

    name: str
    sql: str


def migrations() -> tuple[Migration, ...]:
    """Returns the migrations of this version, in the order of their numbers."""
    files = sorted(Path(__file__).parent.glob("m[0-9][0-9][0-9]_*.sql"))
    return tuple(Migration(file.stem, file.read_text()) for file in files)


def views_sql() -> str:
    """Returns the statements that make every view of the ledger over a table `event`."""
    return VIEWS.read_text()


def migrate(
    connection: duckdb.DuckDBPyConnection, path: Path, *, steps: Sequence[Migration], recorded_at: str
) -> tuple[str, ...]:
    """Applies what a ledger has not seen yet, then renews its views if they changed; returns the names applied.

    A ledger that already holds facts is first copied to `<name>.before-<first step>`. Killed at any moment, the ledger
    is at the old version or at the new one.
    """
    connection.execute("CREATE TABLE IF NOT EXISTS migration (name VARCHAR, sha256 VARCHAR, recorded_at VARCHAR)")
    done = connection.execute("SELECT name, sha256 FROM migration ORDER BY rowid").fetchall()
    missing = [step for step in steps if step.name not in {name for name, _ in done}]
    if missing and done:
        _back_up(connection, path.with_name(f"{path.name}.before-{missing[0].name}"))
    views = Migration("views", views_sql())
    last_views = [sha256 for name, sha256 in done if name == views.name][-1:]
    if missing or last_views != [_sha256(views)]:
        missing.append(views)
    for step in missing:
        _apply(connection, step, recorded_at=recorded_at)
    return tuple(step.name for step in missing)


def _back_up(connection: duckdb.DuckDBPyConnection, copy: Path) -> None:
    """Copies the ledger through the database: to open its file by hand would give up the database's lock on it."""
    copy.unlink(missing_ok=True)
    (ledger,) = connection.execute("SELECT current_database()").fetchall()[0]
    connection.execute(f"ATTACH {quoted(str(copy))} AS ledger_copy")
    connection.execute(f'COPY FROM DATABASE "{ledger}" TO ledger_copy')
    connection.execute("DETACH ledger_copy")


def quoted(text: str) -> str:
    """Returns a text as an SQL literal, for the few statements that take no parameters."""
    return "'" + text.replace("'", "''") + "'"


def _apply(connection: duckdb.DuckDBPyConnection, step: Migration, *, recorded_at: str) -> None:
    connection.execute("BEGIN")
    try:
        connection.execute(step.sql)
        connection.execute("INSERT INTO migration VALUES (?, ?, ?)", [step.name, _sha256(step), recorded_at])
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("CHECKPOINT")


def _sha256(step: Migration) -> str:
    return hashlib.sha256(step.sql.encode()).hexdigest()
