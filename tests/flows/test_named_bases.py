"""Bases that are known by name alone: adapters are moved and kept, and nothing is published without a score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from catalogs.ledger import open_reader
from flows.command_line import app
from flows.settings import load_migration
from flows.to_do import settings_identity
from lorax.base_models import known_bases
from lorax.read import AdapterFiles, read_adapter
from tests.stand_ins.genuine_world import make_genuine_world
from tests.stand_ins.small_world import FREE, SmallWorld, write_terms

FILES = ("disney", "pokemon")


def command(world: SmallWorld, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--data", str(world.data)])


def migrate(world: SmallWorld) -> dict[str, Any]:
    from flows.migrate import migrate as flow

    result: dict[str, Any] = flow(migration=world.settings, data=world.data)
    return result


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> SmallWorld:
    """Returns a migration to BK-SDM-Small after one run; its terms would allow to publish. Read only."""
    world = make_genuine_world(tmp_path_factory.mktemp("moved"), known="bk-sdm-small", files=FILES)
    for name in FILES:
        write_terms(world.catalogue / f"{name}.civitai.info", FREE)
    migrate(world)
    return world


def conversions(world: SmallWorld) -> dict[str, dict[str, Any]]:
    """Returns what was converted, with the entry's outcome, by the entry's name."""
    rows = open_reader(world.data).rows(
        "SELECT states.name, states.state, states.reason, states.text, states.conversion_id, conversions.* "
        "EXCLUDE (conversion_id) FROM states JOIN conversions ON conversions.conversion_id = states.conversion_id"
    )
    return {str(row["name"]): row for row in rows}


def test_every_adapter_is_moved_and_none_counts_as_passed(moved: SmallWorld) -> None:
    found = conversions(moved)
    assert sorted(found) == sorted(FILES)
    assert {(row["state"], row["reason"]) for row in found.values()} == {("rejected", "not-scored")}
    assert (found["pokemon"]["sites_mapped"], found["pokemon"]["sites_total"]) == (72, 128)
    assert (found["disney"]["sites_mapped"], found["disney"]["sites_total"]) == (129, 192)


def test_nothing_is_measured_intended_or_published(moved: SmallWorld) -> None:
    kinds = {row["kind"] for row in open_reader(moved.data).rows("SELECT DISTINCT kind FROM event")}
    assert "converted" in kinds
    assert not {"scored", "judged", "publication_intended", "published"} & kinds
    assert not moved.hub.exists()


def test_the_outcome_says_why_where_the_file_lies_and_what_is_lost(moved: SmallWorld) -> None:
    for row in conversions(moved).values():
        assert (
            "not scored, so never published: sd1.5 cannot be run (it is known by name alone) and bk-sdm-small cannot"
            in row["text"]
        )
        assert f"{row['sites_mapped']} of {row['sites_total']} sites have a home in bk-sdm-small" in row["text"]
        assert f"{row['dropped_norm_share']:.1%} of the squared norm has none" in row["text"]
        folder = moved.data / row["text"].rpartition("the files lie in ")[2]
        [file] = folder.iterdir()
        adapter = read_adapter(AdapterFiles(file), candidates=known_bases())
        assert adapter.base.name == "bk-sdm-small"
        assert len(adapter.updates) == row["sites_mapped"]


def test_the_report_names_every_site_without_a_home_and_its_share(moved: SmallWorld) -> None:
    page = (moved.data / "reports" / "latest.html").read_text()
    for row in conversions(moved).values():
        lost = json.loads(row["dropped_sites"])
        assert len(lost) == row["sites_total"] - row["sites_mapped"]
        heaviest = max(lost, key=lambda site: site["norm"])
        share = row["dropped_norm_share"] * heaviest["norm"] ** 2 / sum(site["norm"] ** 2 for site in lost)
        assert f"<code>{heaviest['site']}</code></th><td>{share:.1%}</td>" in page
        assert all(f"<code>{site['site']}</code></th>" in page for site in lost)
        assert f"{row['dropped_norm_share']:.1%} of the norm is lost" in page


def test_status_query_and_trace_say_so_too(moved: SmallWorld) -> None:
    assert json.loads(command(moved, "status", "--json").output)["not_scored"] == len(FILES)
    assert "2 of the rejected were never scored: lorax query not-scored" in command(moved, "status").output
    rows = json.loads(command(moved, "query", "not-scored", "--json").output)
    assert {row["name"]: row["sites_mapped"] for row in rows} == {"pokemon": 72, "disney": 129}
    assert all((moved.data / row["file"]).is_file() for row in rows)
    traced = command(moved, "trace", "pokemon").output
    assert "score: none, and nothing is published without one" in traced
    assert "sites without a home: unet:down_blocks.0.attentions.1." in traced


def test_a_second_run_has_nothing_to_do(moved: SmallWorld) -> None:
    assert migrate(moved)["run_id"] is None


@pytest.mark.usefixtures("prefect_server")
def test_two_targets_in_one_data_folder_are_kept_apart(moved: SmallWorld, tmp_path: Path) -> None:
    world = make_genuine_world(tmp_path, known="bk-sdm-small", files=("pokemon",), dialect="kohya")
    other = make_genuine_world(tmp_path / "other", known="sdxl", files=("pokemon",), dialect="kohya", data=world.data)
    for each in (world, other):
        migrate(each)
    rows = open_reader(world.data).rows("SELECT DISTINCT conversion_id, target, plan_id, dialect FROM conversions")
    assert {row["target"] for row in rows} == {"bk-sdm-small", "sdxl"}
    assert len({row["plan_id"] for row in rows}) == 2
    assert {row["dialect"] for row in rows} == {"kohya"}


def test_a_dry_run_says_that_nothing_could_be_scored(tmp_path: Path) -> None:
    world = make_genuine_world(tmp_path, known="segmind/small-sd", files=("pokemon",))
    run = command(world, "migrate", str(world.settings), "--dry-run")
    assert run.exit_code == 0, run.output
    [entry] = json.loads(next((world.data / "reports").glob("*.json")).read_text())["entries"]
    assert (entry["state"], entry["reason"]) == ("rejected", "dry-run")
    assert "would be converted from sd1.5 to small-sd by copy" in entry["text"]
    assert (
        "not scored, so never published: sd1.5 cannot be run (it is known by name alone) and small-sd" in entry["text"]
    )


@pytest.mark.parametrize("arguments", [(), ("--dry-run",)])
def test_a_method_that_needs_weights_stops_before_anything_is_touched(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    world = make_genuine_world(tmp_path, known="sdxl", files=("pokemon",), method="prolora")
    run = command(world, "migrate", str(world.settings), *arguments)
    assert run.exit_code == 2
    assert "'prolora' needs weights" in run.output
    assert "Give [bases.sd1.5] and [bases.sdxl] a path" in run.output
    assert not world.data.exists()


def test_a_base_that_gets_a_path_or_another_dialect_makes_its_entries_other_work(
    small_world: SmallWorld, tmp_path: Path
) -> None:
    world = make_genuine_world(tmp_path, known="sdxl", files=("pokemon",))
    text = world.settings.read_text()

    def identity(changed: str) -> str:
        world.settings.write_text(changed)
        return settings_identity(load_migration(world.settings))

    folder = small_world.settings.parent / "bases" / "tiny-v1"
    identities = [
        identity(text),
        identity(text.replace('known = "sdxl"', f'path = "{folder}"')),
        identity(text.replace('known = "sdxl"', 'known = "ssd-1b"')),
        identity(text.replace('method = "copy"', 'method = "copy"\ndialect = "kohya"')),
    ]
    assert len(set(identities)) == len(identities)


@pytest.mark.parametrize("arguments", [(), ("--dry-run",)])
@pytest.mark.usefixtures("prefect_server")
def test_a_method_that_runs_bases_stops_at_one_that_can_only_be_read(
    small_world: SmallWorld, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    world = small_world.copy_to(tmp_path)
    text = world.settings.read_text().replace('"bases/tiny-v2"', '"bases/tiny-v2/unet"')
    world.settings.write_text(text.replace('method = "copy"', 'method = "calibrated"'))
    run = command(world, "migrate", str(world.settings), *arguments)
    assert run.exit_code == 2, run.output
    assert "method 'calibrated' needs activations" in run.output
    assert "tiny-v2 cannot be run" in run.output
    assert not (world.data / "store").exists()
