from __future__ import annotations

from pathlib import Path

import pytest

from catalogs.errors import Stop
from catalogs.ledger import Ledger, Reader
from catalogs.report import AdapterRow, LostSite, ReportData, report_data_from_ledger
from tests.stand_ins.ledger_story import (
    BOLD,
    FAINT,
    LOST,
    conversion_id,
    converted,
    entry,
    outcome,
    scored,
    seen,
    started,
    story,
)


def by_name(data: ReportData) -> dict[str, AdapterRow]:
    return {row.name: row for row in data.adapters}


def test_every_entry_of_the_migration_is_there_with_what_is_known(told: Reader) -> None:
    data = report_data_from_ledger(told, "run-1")
    rows = by_name(data)

    assert {name: row.state for name, row in rows.items()} == {
        "Bold": "published",
        "Faint": "rejected",
        "Locked": "skipped",
        "Broken": "quarantined",
    }
    bold = rows["Bold"]
    assert (bold.method, bold.base, bold.dialect, bold.ranks) == ("calibrated", "digits-v1", "kohya", (4,))
    assert (bold.sites_mapped, bold.sites_total, bold.kept_norm) == (23, 24, 0.97)
    assert (bold.figure("converted").value, bold.figure("converted").low) == (pytest.approx(0.91), pytest.approx(0.86))
    assert bold.figure("zero").value is None
    assert bold.location == "hub/bold"
    assert rows["Broken"].figures == {}


def test_the_run_itself_is_described(told: Reader) -> None:
    data = report_data_from_ledger(told, "run-1", reasons={"truncated": "Cut."}, is_dry_run=True)

    assert (data.migration, data.run_id, data.gate_threshold) == ("digits-v1-to-v2", "run-1", 0.5)
    assert data.seconds == {"total": 12.5}
    assert data.settings["name"] == "digits-v1-to-v2"
    assert data.finished_at
    assert data.ledger_head.startswith(f"{len(told.events())} · ")
    assert (data.reasons, data.is_dry_run) == ({"truncated": "Cut."}, True)


def test_the_similarity_of_the_bases_comes_from_the_plan(told: Reader) -> None:
    (pair,) = report_data_from_ledger(told, "run-1").similarities

    assert (pair.source, pair.target, len(pair.sites)) == ("digits-v1", "digits-v2", 24)
    assert (pair.sites[2].site, pair.sites[2].weight_distance) == ("unet:down_blocks.0.to_q.2", 0.04)


def test_a_second_run_shows_what_the_first_one_settled_and_its_plan() -> None:
    late = entry("late")
    with Ledger.in_memory(run_id="run-1") as ledger:
        ledger.append_many(story())
        ledger.run_id = "run-2"
        ledger.append_many([started("run-2"), seen(late), outcome(late, "failed", "out-of-memory")])
        data = report_data_from_ledger(ledger.reader(), "run-2")

    assert {row.name: row.is_of_this_run for row in data.adapters} == {
        "Bold": False,
        "Faint": False,
        "Locked": False,
        "Broken": False,
        "Late": True,
    }
    assert len(data.similarities) == 1
    assert data.finished_at == ""


def test_another_migration_in_the_same_ledger_stays_out() -> None:
    with Ledger.in_memory(run_id="run-1") as ledger:
        ledger.append_many(story())
        ledger.run_id = "run-2"
        ledger.append_many([started("run-2", migration="other"), outcome(FAINT, "skipped", "other-base")])
        reader = ledger.reader()

    assert [row.name for row in report_data_from_ledger(reader, "run-2").adapters] == ["Faint"]
    assert report_data_from_ledger(reader, "run-2").similarities == ()
    assert len(report_data_from_ledger(reader, "run-1").adapters) == 4


def test_an_adapter_that_was_scored_twice_is_one_row_with_the_later_figures() -> None:
    with Ledger.in_memory(run_id="run-1") as ledger:
        ledger.append_many(story())
        ledger.append_many([scored(BOLD, 0.5, images="images/bold.png"), *[f for f in story() if f[0] == "published"]])
        data = report_data_from_ledger(ledger.reader(), "run-1", data_folder=Path("/data"))

    assert len(data.adapters) == 4
    bold = by_name(data)["Bold"]
    assert bold.figure("converted").value == 0.5
    assert bold.image == Path("/data/images/bold.png")
    assert bold.image_rows == ("source", "source + adapter", "target + converted")


def test_the_gate_is_taken_from_the_verdicts_when_the_settings_do_not_name_it() -> None:
    with Ledger.in_memory(run_id="run-1") as ledger:
        ledger.append_many(
            ("run_started", "run-1", {"migration": "m"}) if f[0] == "run_started" else f for f in story()
        )

        assert report_data_from_ledger(ledger.reader(), "run-1").gate_threshold == 0.5


def test_a_run_that_is_not_in_the_ledger_stops(told: Reader) -> None:
    with pytest.raises(Stop, match="no run 'run-9'"):
        report_data_from_ledger(told, "run-9")


def test_sites_without_a_home_come_with_their_share_of_the_norm_the_heaviest_first(told: Reader) -> None:
    kind, subject, body = converted(FAINT)
    sites = [{"site": name, "reason": "no-target-site", "norm": norm} for name, norm in (("a", 1.0), ("b", 2.0))]
    with Ledger.in_memory(run_id="run-1") as ledger:
        ledger.append_many([*story(), (kind, subject, {**body, "dropped_sites": sites, "dropped_norm_share": 0.25})])
        rows = by_name(report_data_from_ledger(ledger.reader(), "run-1"))

    assert rows["Faint"].lost_sites == (LostSite("b", "no-target-site", 0.2), LostSite("a", "no-target-site", 0.05))
    assert rows["Bold"].lost_sites == (LostSite(LOST, "no-target-site", 0.0125),)
    assert rows["Broken"].lost_sites == ()


def test_where_converted_files_lie_is_known_and_their_dialect_is_not_mistaken_for_the_sources(told: Reader) -> None:
    bold = by_name(report_data_from_ledger(told, "run-1"))["Bold"]

    assert bold.files == (f"conversions/{conversion_id(BOLD)}/files/out.safetensors",)
    assert bold.dialect == "kohya"
