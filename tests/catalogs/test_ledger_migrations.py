from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from catalogs.ledger import Ledger
from catalogs.ledger_migrations import Migration, migrate, migrations, quoted

NEXT = Migration("m999_next", "CREATE TABLE later (x INTEGER); INSERT INTO later VALUES (1);")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "it's a ledger.duckdb"


def tables(connection: duckdb.DuckDBPyConnection) -> set[str]:
    return {name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}


def test_migrations_are_numbered_without_a_gap() -> None:
    numbers = [int(step.name[1:4]) for step in migrations()]

    assert numbers == list(range(1, len(numbers) + 1))
    assert all(re.fullmatch(r"m\d{3}_[a-z_]+", step.name) for step in migrations())


def test_each_step_is_applied_once(path: Path) -> None:
    connection = duckdb.connect(str(path))

    assert migrate(connection, path, steps=migrations(), recorded_at="t")[-1] == "views"
    assert migrate(connection, path, steps=migrations(), recorded_at="t") == ()
    assert migrate(connection, path, steps=[*migrations(), NEXT], recorded_at="t") == ("m999_next", "views")
    assert connection.execute("SELECT count(*) FROM later").fetchall() == [(1,)]
    connection.close()


def test_the_old_ledger_is_kept_beside_before_it_changes(path: Path) -> None:
    with Ledger.open(path) as ledger:
        ledger.append("tick", "a", {})
    connection = duckdb.connect(str(path))
    migrate(connection, path, steps=[*migrations(), NEXT], recorded_at="t")
    connection.close()

    kept = path.with_name(path.name + ".before-m999_next")
    old = duckdb.connect(str(kept), read_only=True)
    assert "later" not in tables(old)
    assert old.execute("SELECT subject FROM event").fetchall() == [("a",)]
    old.close()


def test_a_step_that_fails_changes_nothing(path: Path) -> None:
    connection = duckdb.connect(str(path))
    migrate(connection, path, steps=migrations(), recorded_at="t")
    broken = Migration("m999_broken", "CREATE TABLE half (x INTEGER); SELECT * FROM nowhere;")

    with pytest.raises(duckdb.CatalogException):
        migrate(connection, path, steps=[*migrations(), broken], recorded_at="t")
    assert "half" not in tables(connection)
    assert migrate(connection, path, steps=[*migrations(), NEXT], recorded_at="t") == ("m999_next", "views")
    connection.close()


KILLED_AT_EACH_STATEMENT = """
import os, signal, sys
from pathlib import Path
import duckdb
from catalogs.ledger_migrations import Migration, migrate, migrations

STEPS = [*migrations(), Migration("m999_next", "CREATE TABLE later (x INTEGER); INSERT INTO later VALUES (1);")]


class Dying:
    def __init__(self, connection, left):
        self.connection, self.left = connection, left

    def execute(self, *arguments):
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1
        return self.connection.execute(*arguments)


statement, is_killed = 0, True
while is_killed:
    path = Path(sys.argv[1]) / f"{statement}.duckdb"
    child = os.fork()  # before this process has opened any database: no threads yet
    if child == 0:
        migrate(Dying(duckdb.connect(str(path)), statement), path, steps=STEPS, recorded_at="t")
        os._exit(0)
    is_killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    statement += 1
print(statement)
"""


def test_killed_before_any_statement_a_ledger_is_at_one_version_or_the_other(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED_AT_EACH_STATEMENT, str(tmp_path)]
    tries = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    endings = set()
    for number in range(tries):
        path = tmp_path / f"{number}.duckdb"
        connection = duckdb.connect(str(path))
        made = tables(connection)
        recorded = connection.execute("SELECT name FROM migration").fetchall() if "migration" in made else []
        names = frozenset(name for (name,) in recorded)
        assert ("event" in made) == ("m001_events" in names)
        assert ("later" in made) == ("m999_next" in names)
        migrate(connection, path, steps=[*migrations(), NEXT], recorded_at="t")
        assert {"event", "later"} <= tables(connection)
        connection.close()
        endings.add(names)

    assert endings == {
        frozenset(),
        frozenset({"m001_events"}),
        frozenset({"m001_events", "m999_next"}),
        frozenset({"m001_events", "m999_next", "views"}),
    }


def test_a_text_is_quoted_for_sql() -> None:
    assert quoted("it's") == "'it''s'"
    assert duckdb.connect(":memory:").execute(f"SELECT {quoted(chr(39) * 3)}").fetchall() == [("'''",)]
