"""Questions to the ledger: one .sql file per question that people ask, and a safe way to ask any other.

A query file starts with two comment lines, `-- title:` and `-- about:`; its name is the file's name. Adding a question
is adding a file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Final

import duckdb

from catalogs.errors import Stop
from catalogs.ledger_reader import Reader

if TYPE_CHECKING:
    import pandas as pd

HEADER: Final = re.compile(r"\A-- title: (?P<title>[^\n]+)\n-- about: (?P<about>[^\n]+)\n(?P<sql>.+)\Z", re.DOTALL)
READING: Final = frozenset({"SELECT", "EXPLAIN"})
"""Kinds of statements that only read; DuckDB parses WITH, FROM, DESCRIBE, SHOW and SUMMARIZE as SELECT."""


@dataclass(frozen=True, slots=True)
class Query:
    """A question with a name."""

    name: str
    title: str
    about: str
    sql: str


def list_queries() -> tuple[Query, ...]:
    """Returns every query file of this folder, sorted by name."""
    return tuple(_read(path) for path in sorted(Path(__file__).parent.glob("*.sql")))


def run_query(reader: Reader, text: str) -> pd.DataFrame:
    """Answers a question given by the name of a query file, or by one SQL statement that only reads.

    Raises Stop for an unknown name, for SQL with a mistake in it, and for a statement that is not a question.
    """
    queries = {query.name: query for query in list_queries()}
    if text.strip() in queries:
        return reader.frame(queries[text.strip()].sql)
    if re.fullmatch(r"[\w-]+", text.strip()):
        raise Stop(f"no query is named {text.strip()!r}. {_hint(text.strip(), list(queries))}")
    try:
        _refuse_writing(reader, text)
        return reader.frame(text)
    except duckdb.Error as problem:
        raise Stop(f"{problem}\n{_hint(text, list(queries))}") from problem


def _read(path: Path) -> Query:
    found = HEADER.match(path.read_text())
    if found is None:
        raise Stop(f"{path}: a query file has to start with the lines `-- title: …` and `-- about: …`")
    return Query(path.stem, found["title"].strip(), found["about"].strip(), found["sql"].strip())


def _refuse_writing(reader: Reader, sql: str) -> None:
    statements = reader.connection.extract_statements(sql)
    if len(statements) != 1:
        raise Stop(f"{len(statements)} statements were given; ask one question at a time")
    kind = statements[0].type.name
    if kind not in READING:
        raise Stop(f"a query may only read, and this is a statement of kind {kind}; use SELECT, WITH, DESCRIBE or SHOW")


def _hint(text: str, names: list[str]) -> str:
    close = get_close_matches(text.lower(), names, n=1, cutoff=0.5)
    nearest = f"Did you mean `lorax query {close[0]}`? " if close else ""
    return (
        f'{nearest}`lorax query --list` shows all queries; `lorax query "SHOW TABLES"` the tables for SQL of your own.'
    )
