"""The whole flow, in this process, on one test server."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from catalogs.errors import Stop
from catalogs.ledger import open_reader
from catalogs.release import open_release
from flows.journal import Journal
from flows.states import STATES
from tests.stand_ins.small_world import GOOD, SmallWorld, add_adapter
from tests.stand_ins.small_world import STATES as EXPECTED

pytestmark = pytest.mark.usefixtures("prefect_server")


def migrate(world: SmallWorld) -> dict[str, Any]:
    from flows.migrate import migrate as flow

    result: dict[str, Any] = flow(migration=world.settings, data=world.data)
    return result


def events(world: SmallWorld) -> Counter[str]:
    rows = open_reader(world.data).rows("SELECT kind, count(*) AS many FROM event GROUP BY kind")
    return Counter({str(row["kind"]): int(str(row["many"])) for row in rows})


def endings(world: SmallWorld) -> dict[str, tuple[str, str]]:
    rows = open_reader(world.data).rows("SELECT entry_id, state, reason FROM states")
    return {str(row["entry_id"]): (str(row["state"]), str(row["reason"])) for row in rows}


@pytest.fixture(scope="module")
def finished(small_world: SmallWorld, tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> SmallWorld:
    """Returns a small migration after one run. Read only: copy it."""
    world = small_world.copy_to(tmp_path_factory.mktemp("finished"))
    migrate(world)
    return world


@pytest.fixture
def again(finished: SmallWorld, tmp_path: Path) -> Iterator[SmallWorld]:
    """Returns the finished migration to do anything with; it lies where it lay, and is put back afterwards."""
    root = finished.data.parent
    shutil.copytree(root, tmp_path / "backup")
    yield finished
    shutil.rmtree(root)
    shutil.copytree(tmp_path / "backup", root)


def test_every_entry_ends_in_exactly_one_state_for_the_right_reason(finished: SmallWorld) -> None:
    assert endings(finished) == EXPECTED
    assert events(finished)["outcome"] == len(EXPECTED)


def test_what_is_published_is_whole_and_carries_its_provenance(finished: SmallWorld) -> None:
    folders = sorted(path for path in finished.hub.iterdir() if path.name != ".incoming")
    assert len(folders) == len(GOOD)
    for folder in folders:
        names = {name for name, _ in open_release(folder).files}
        assert names > {"README.md", "preview.png", "provenance.json"}


def test_the_run_is_on_record_from_its_first_to_its_last_word(finished: SmallWorld) -> None:
    rows = open_reader(finished.data).rows("SELECT kind, body FROM event ORDER BY sequence")
    assert (rows[0]["kind"], rows[-1]["kind"]) == ("run_started", "run_finished")
    body = json.loads(str(rows[-1]["body"]))
    assert [body["states"][state] for state in STATES] == [3, 1, 0, 3, 1, 0]
    assert {"read", "plan", "convert", "score", "publish", "report", "ledger", "prefect", "total"} <= set(
        body["seconds"]
    )
    assert Path(body["report"]).read_text() == (finished.data / "reports" / "latest.html").read_text()


def test_every_publication_was_intended_before_it_was_made(finished: SmallWorld) -> None:
    rows = open_reader(finished.data).rows(
        "SELECT subject, kind FROM event WHERE kind IN ('publication_intended', 'published') ORDER BY sequence"
    )
    assert Counter(str(row["kind"]) for row in rows) == {"publication_intended": len(GOOD), "published": len(GOOD)}
    for subject in {row["subject"] for row in rows}:
        kinds = [row["kind"] for row in rows if row["subject"] == subject]
        assert kinds == ["publication_intended", "published"]


def test_a_second_run_does_nothing_and_says_so(again: SmallWorld) -> None:
    before, published = events(again), again.published()
    result = migrate(again)
    assert result["run_id"] is None
    assert sum(result["states"].values()) == len(EXPECTED)
    assert (events(again), again.published()) == (before, published)


def test_a_new_file_is_the_only_one_that_the_next_run_works_on(again: SmallWorld) -> None:
    add_adapter(again.settings.parent, "delta", seed=77)
    before = events(again)
    migrate(again)
    assert events(again) - before == Counter(
        run_started=1, run_finished=1, entry_seen=1, file_stored=1, adapter_read=1, converted=1, scored=1, judged=1,
        publication_intended=1, published=1, outcome=1,
    )  # fmt: skip
    assert len(again.published()) == len(GOOD) + 1


def test_a_changed_sidecar_has_its_entry_looked_at_again_and_nothing_published_twice(again: SmallWorld) -> None:
    sidecar = again.catalogue / "alpha.civitai.info"
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "id": 1}))
    before, published = events(again), again.published()
    migrate(again)
    news = events(again) - before
    assert news["outcome"] == 1
    assert not {"converted", "scored", "publication_intended", "published"} & set(news)
    assert again.published() == published


def test_a_stricter_gate_judges_the_old_figures_again(again: SmallWorld) -> None:
    text = again.settings.read_text().replace("divergence_gain = -9.0", "divergence_gain = 9.0")
    again.settings.write_text(text)
    before = events(again)
    result = migrate(again)
    news = events(again) - before
    assert not {"converted", "scored", "plan_compiled"} & set(news)
    assert (result["states"]["rejected"], result["states"]["published"]) == (4, 0)


def test_a_lost_hub_is_noticed_when_an_entry_is_looked_at_again(again: SmallWorld) -> None:
    shutil.rmtree(again.hub)
    again.settings.write_text(again.settings.read_text().replace('"Tiny v2"', '"Tiny Two"'))
    migrate(again)
    assert len(again.published()) == len(GOOD)


def test_a_publication_that_a_killed_run_did_not_confirm_is_confirmed_and_not_repeated(
    again: SmallWorld, tmp_path: Path
) -> None:
    """The ledger is wound back to just before the first confirmation; the hub keeps what it has."""
    from catalogs.ledger import Ledger

    old = open_reader(again.data).rows("SELECT kind, subject, body, run_id FROM event ORDER BY sequence")
    until = [row["kind"] for row in old].index("published")
    for path in again.data.glob("ledger.*"):
        path.unlink()
    with Ledger.open(again.data / "ledger.duckdb", run_id=str(old[0]["run_id"])) as ledger:
        ledger.append_many(
            [(str(row["kind"]), str(row["subject"]), json.loads(str(row["body"]))) for row in old[:until]]
        )
    published = again.published()
    migrate(again)
    journal = Journal(open_reader(again.data))
    assert again.published() == published
    assert journal.pending() == {}
    assert events(again)["published"] == len(GOOD)
    assert endings(again) == EXPECTED


def test_a_broken_base_stops_the_run_before_anything_is_settled(world: SmallWorld) -> None:
    shutil.rmtree(world.settings.parent / "bases" / "tiny-v2" / "unet")
    with pytest.raises(Exception, match="no known family of base models") as caught:
        migrate(world)
    assert type(caught.value).__name__ == "Stop"
    assert "outcome" not in events(world)


def test_a_ledger_in_use_is_refused_with_the_remedy(again: SmallWorld) -> None:
    from catalogs.ledger import Ledger

    with Ledger.open(again.data / "ledger.duckdb"), pytest.raises(Stop, match="writes to it already"):
        migrate(again)


def test_people_find_the_run_by_its_name_and_its_tasks_by_what_they_work_on(finished: SmallWorld) -> None:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        flows = client.read_flow_runs()
        tasks = client.read_task_runs()
    assert any(run.name.startswith("tiny 20") for run in flows)
    names = {run.name for run in tasks}
    assert "convert 1/1: alpha, beta, +2" in names
    assert "plan copy and its controls" in names


def test_prefect_keeps_a_table_of_all_entries_and_a_link_to_the_report(finished: SmallWorld) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    with get_client(sync_client=True) as client:
        wanted = ArtifactFilter(key=ArtifactFilterKey(any_=["migration-summary", "migration-report"]))
        found = {one.key: one for one in client.read_artifacts(artifact_filter=wanted)}
    table = json.loads(str(found["migration-summary"].data))
    assert {"name", "state", "reason", "converted", "copy", "random"} == set(table[0])
    assert "file://" in str(found["migration-report"].data)
