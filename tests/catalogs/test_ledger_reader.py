from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from catalogs.ledger import Ledger, Reader, open_reader
from tests.stand_ins.ledger_story import BOLD, FAINT, PLAN, conversion_id, outcome, started, story


def by_entry(reader: Reader, sql: str) -> dict[object, object]:
    rows = reader.rows(sql)
    return {first: tuple(rest) for first, *rest in (row.values() for row in rows)}


def test_every_kind_of_fact_has_its_view(told: Reader) -> None:
    counts = {
        view: told.rows(f"SELECT count(*) AS n FROM {view}")[0]["n"]  # noqa: S608
        for view in (
            *("runs", "entries", "files", "adapters", "plans", "conversions", "scores", "verdicts", "publications"),
            *("outcomes", "states"),
        )
    }

    assert counts == {
        "runs": 1,
        "entries": 4,
        "files": 3,
        "adapters": 2,
        "plans": 1,
        "conversions": 2,
        "scores": 12,
        "verdicts": 2,
        "publications": 1,
        "outcomes": 4,
        "states": 4,
    }


def test_views_have_typed_columns(told: Reader) -> None:
    (adapter,) = told.rows("FROM adapters WHERE entry_key = ?", [BOLD.key])
    (gain,) = told.rows(
        "FROM scores WHERE conversion_id = ? AND candidate = 'copy' AND figure = 'divergence_gain'",
        [conversion_id(BOLD)],
    )
    (entry,) = told.rows("FROM entries WHERE entry_key = ?", [FAINT.key])

    assert (adapter["algorithms"], adapter["ranks"], adapter["sites"]) == (["lora"], [4], 24)
    assert adapter["unmappable_tensors"] == 1
    assert gain["value"] == pytest.approx(0.81)
    assert (entry["licence"], entry["allow_derivatives"], entry["may_publish"]) == ("cc-by-4.0", None, True)


def test_the_state_of_an_entry_is_its_latest_outcome() -> None:
    with Ledger.in_memory(run_id="run-1") as ledger:
        ledger.append_many(story())
        ledger.run_id = "run-2"
        ledger.append_many([started("run-2"), outcome(FAINT, "published", "gate-passed")])
        reader = ledger.reader()

    states = by_entry(reader, "SELECT entry_key, state, run_id FROM states")
    assert states[FAINT.key] == ("published", "run-2")
    assert states[BOLD.key] == ("published", "run-1")
    assert len(reader.rows("FROM outcomes WHERE entry_key = ?", [FAINT.key])) == 2


def test_two_migrations_of_one_catalogue_keep_their_own_states() -> None:
    with Ledger.in_memory(run_id="run-1") as ledger:
        ledger.append_many(story())
        ledger.run_id = "run-2"
        ledger.append_many([started("run-2", migration="digits-v1-to-slim"), outcome(BOLD, "rejected", "gate-random")])
        states = by_entry(ledger.reader(), "SELECT migration, state FROM states WHERE name = 'Bold'")

    assert states == {"digits-v1-to-v2": ("published",), "digits-v1-to-slim": ("rejected",)}


def test_a_publication_is_pending_until_it_is_confirmed() -> None:
    facts = story()
    confirmed = next(fact for fact in facts if fact[0] == "published")
    with Ledger.in_memory() as ledger:
        ledger.append_many(fact for fact in facts if fact[0] != "published")
        assert ledger.rows("SELECT progress, location FROM publications") == [{"progress": "pending", "location": None}]
        ledger.append_many([confirmed])
        assert ledger.rows("SELECT progress, location FROM publications") == [
            {"progress": "published", "location": "hub/bold"}
        ]


def test_a_run_that_never_ended_is_unfinished() -> None:
    with Ledger.in_memory(run_id="run-9") as ledger:
        ledger.append_many([started("run-9")])
        assert ledger.rows("SELECT run_id, progress, finished_at FROM runs") == [
            {"run_id": "run-9", "progress": "unfinished", "finished_at": None}
        ]


def test_views_do_not_fail_on_bodies_without_any_key() -> None:
    kinds = (
        *("run_started", "run_finished", "entry_seen", "file_stored", "adapter_read", "plan_compiled", "converted"),
        *("scored", "judged", "publication_intended", "published", "outcome"),
    )
    with Ledger.in_memory(run_id="r") as ledger:
        ledger.append_many((kind, "x", {}) for kind in kinds)
        reader = ledger.reader()

    assert [row["plan_id"] for row in reader.rows("FROM plans")] == ["x"]
    assert [row["state"] for row in reader.rows("FROM states")] == [None]
    assert reader.rows("FROM scores") == []


def test_a_reader_has_no_way_to_files_or_settings(told: Reader, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")

    for sql in (
        f"FROM read_csv('{secret}')",
        f"COPY event TO '{tmp_path / 'out.parquet'}'",
        f"ATTACH '{tmp_path / 'other.duckdb'}'",
        "SET enable_external_access = true",
    ):
        with pytest.raises(duckdb.Error):
            told.rows(sql)
    assert [p.name for p in tmp_path.iterdir()] == ["secret.csv"]


def test_the_views_lie_in_the_file_itself_for_other_tools(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger.duckdb", run_id="run-1") as ledger:
        ledger.append_many(story())

    other_tool = duckdb.connect(str(tmp_path / "ledger.duckdb"), read_only=True)
    assert other_tool.execute("SELECT count(*) FROM states WHERE state = 'published'").fetchall() == [(1,)]
    other_tool.close()
    assert open_reader(tmp_path).rows("SELECT method FROM plans WHERE plan_id = ?", [PLAN]) == [
        {"method": "calibrated"}
    ]
