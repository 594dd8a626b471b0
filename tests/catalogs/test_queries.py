from __future__ import annotations

import pytest

from catalogs.errors import Stop
from catalogs.ledger import Ledger, Reader
from catalogs.queries import list_queries, run_query
from tests.stand_ins.ledger_story import story

NAMES = [query.name for query in list_queries()]


def test_the_questions_that_users_ask_are_there() -> None:
    asked = {"states", "published", "rejected", "quarantined", "skipped", "scores", "methods", "plans", "runs", "worst"}

    assert asked | {"by-base", "dropped", "lineage", "summary"} <= set(NAMES)
    assert sorted(NAMES) == NAMES
    assert all(query.title and query.about.endswith(".") for query in list_queries())


@pytest.mark.parametrize("name", NAMES)
def test_each_query_answers_on_an_empty_ledger_and_on_a_full_one(name: str, told: Reader, empty: Reader) -> None:
    none, full = run_query(empty, name), run_query(told, name)

    assert len(none) == 0
    assert list(none.columns) == list(full.columns)
    assert len(full) > 0 or name in ("pending", "failed", "not-scored")


def test_the_answers_are_those_of_the_story(told: Reader) -> None:
    scores = run_query(told, "scores")
    assert scores[["name", "divergence_gain", "copy_gain", "passed"]].values.tolist() == [
        ["Bold", 0.91, 0.81, True],
        ["Faint", 0.21, 0.11, False],
    ]
    assert run_query(told, "published")["location"].tolist() == ["hub/bold"]
    assert run_query(told, "rejected")["text"].tolist() == ["0.21 is below 0.5"]
    assert run_query(told, "quarantined")["reason"].tolist() == ["truncated"]
    assert run_query(told, "skipped")["name"].tolist() == ["Locked"]
    assert run_query(told, "methods")[["passed_share", "median_gain"]].values.tolist() == [[0.5, 0.56]]
    assert run_query(told, "worst")["difference"].tolist() == [0.1, 0.1]
    assert run_query(told, "dropped")["sites_lost"].tolist() == [1, 1]
    assert run_query(told, "plans")["conversions"].tolist() == [2]
    assert set(run_query(told, "summary")["entries"]) == {1}
    assert run_query(told, "lineage")["origin"].tolist() == ["https://civitai.com/models/7?modelVersionId=4"]


def test_a_query_counts_each_entry_once_when_its_adapter_was_scored_again() -> None:
    with Ledger.in_memory(run_id="run-1") as ledger:
        ledger.append_many(story())
        ledger.append_many(fact for fact in story() if fact[0] in ("scored", "judged", "converted", "adapter_read"))
        reader = ledger.reader()

    assert len(run_query(reader, "scores")) == 2
    assert len(run_query(reader, "published")) == 1
    assert len(run_query(reader, "lineage")) == 1
    assert run_query(reader, "methods")["conversions"].tolist() == [2]


def test_sql_of_ones_own_is_answered(told: Reader) -> None:
    assert run_query(told, "SELECT count(*) AS n FROM states WHERE state = 'published'")["n"].tolist() == [1]
    assert run_query(told, "WITH x AS (FROM runs) SELECT run_id FROM x")["run_id"].tolist() == ["run-1"]
    assert "states" in run_query(told, "SHOW TABLES")["name"].tolist()
    assert "entry_key" in run_query(told, "DESCRIBE states")["column_name"].tolist()
    assert len(run_query(told, "EXPLAIN FROM states")) > 0


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM event",
        "WITH x AS (SELECT 1) INSERT INTO event SELECT * FROM event",
        "UPDATE event SET kind = 'x'",
        "DROP VIEW states",
        "CREATE TABLE mine AS FROM event",
        "PRAGMA enable_profiling",
        "COPY event TO 'x.csv'",
        "SET threads = 1",
        "CALL pragma_version()",
    ],
)
def test_a_statement_that_does_more_than_ask_is_refused(told: Reader, sql: str) -> None:
    before = told.events()

    with pytest.raises(Stop, match="a query may only read"):
        run_query(told, sql)
    assert told.events() == before


def test_one_question_at_a_time(told: Reader) -> None:
    with pytest.raises(Stop, match="2 statements"):
        run_query(told, "SELECT 1; DELETE FROM event")


@pytest.mark.parametrize(("wrong", "right"), [("stats", "states"), ("publishd", "published"), ("by_base", "by-base")])
def test_a_mistyped_name_is_told_the_nearest_one(told: Reader, wrong: str, right: str) -> None:
    with pytest.raises(Stop, match=f"no query is named '{wrong}'. Did you mean `lorax query {right}`"):
        run_query(told, wrong)


def test_a_mistake_in_sql_is_shown_with_the_way_out(told: Reader) -> None:
    with pytest.raises(Stop, match=r"(?s)statse does not exist.*SHOW TABLES"):
        run_query(told, "SELECT * FROM statse")


def test_a_question_cannot_reach_files(told: Reader) -> None:
    with pytest.raises(Stop, match="disabled"):
        run_query(told, "SELECT * FROM read_text('/etc/hostname')")
