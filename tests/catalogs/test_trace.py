from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from catalogs.errors import Stop
from catalogs.hubs.folder import FolderHub
from catalogs.ledger import Ledger, Reader
from catalogs.release import Release
from catalogs.trace import TraceNode, trace
from tests.stand_ins.ledger_story import (
    BOLD,
    BROKEN,
    FAINT,
    LOCKED,
    LOST,
    PLAN,
    SOURCE_FINGERPRINT,
    conversion_id,
    converted,
    digest,
    entry,
    outcome,
    read,
    seen,
    started,
    stored,
    story,
)


def chain(node: TraceNode) -> list[str]:
    """Names the steps from a node back to its entry, following the last branch."""
    return [node.what, *(chain(node.made_from[-1]) if node.made_from else [])]


def facts(node: TraceNode, what: str) -> dict[str, object]:
    if node.what == what:
        return dict(node.facts)
    found = [facts(source, what) for source in node.made_from]
    return next((one for one in found if one), {})


WHOLE = ["publication", "verdict", "scores", "conversion", "adapter", "stored file", "entry"]


def test_a_conversion_is_traced_from_its_publication_to_its_source(told: Reader) -> None:
    tree = trace(told, conversion_id(BOLD))

    assert chain(tree) == WHOLE
    assert tree.name == "hub/bold"
    assert facts(tree, "entry")["origin"] == BOLD.origin
    assert facts(tree, "entry")["licence"] == "cc-by-4.0"
    assert facts(tree, "plan")["source fingerprint"] == SOURCE_FINGERPRINT
    assert facts(tree, "plan")["settings"] == {"ridge": 0.01}
    assert facts(tree, "scores")["converted divergence_gain"] == pytest.approx(0.91)
    assert facts(tree, "verdict")["gate"] == {"divergence_gain": 0.5}
    assert facts(tree, "adapter")["evidence"] == [
        "names and shapes: 24 of 24 modules",
        "ss_base_model_version: digits v1",
    ]
    assert facts(tree, "conversion")["code version"] == "0.1.0+abc1234"


def test_the_tree_is_json_and_readable_lines(told: Reader) -> None:
    tree = trace(told, conversion_id(BOLD))
    text = "\n".join(tree.lines())

    assert json.loads(json.dumps(tree.to_json()))["made_from"][0]["what"] == "verdict"
    assert "publication  hub/bold" in text
    assert f"plan  {PLAN}" in text
    assert "origin: https://civitai.com/models/7?modelVersionId=4" in text
    assert "None" not in text


@pytest.mark.parametrize(
    ("wanted", "what", "name"),
    [
        (conversion_id(BOLD)[:8], "publication", "hub/bold"),
        (conversion_id(BOLD)[:8].upper(), "publication", "hub/bold"),
        (BOLD.key, "outcome", BOLD.key),
        (BOLD.entry_id, "outcome", BOLD.key),
        ("BOLD", "outcome", BOLD.key),
        (PLAN[:10], "plan", PLAN),
        (digest(BOLD.entry_id), "outcome", BOLD.key),
        (digest("released bold"), "publication", "hub/bold"),
        (digest(f"out of {FAINT.entry_id}"), "verdict", "not passed"),
        (digest("manifest"), "publication", "hub/bold"),
    ],
)
def test_anything_that_names_one_thing_is_enough(told: Reader, wanted: str, what: str, name: str) -> None:
    node = trace(told, wanted)

    assert (node.what, node.name) == (what, name)


def test_an_entry_is_traced_through_its_outcome_as_far_as_it_came(told: Reader) -> None:
    assert chain(trace(told, BOLD.key)) == ["outcome", *WHOLE]
    assert chain(trace(told, FAINT.key)) == ["outcome", *WHOLE[1:]]
    assert chain(trace(told, BROKEN.key)) == ["outcome", "stored file", "entry"]
    assert chain(trace(told, LOCKED.key)) == ["outcome", "entry"]
    ((_, said),) = trace(told, LOCKED.key).facts
    assert said == "skipped (no-derivatives) its sidecar says that derivatives are not allowed"


def test_an_entry_without_an_outcome_yet_is_traced_to_its_bytes() -> None:
    with Ledger.in_memory(run_id="r") as ledger:
        ledger.append_many([started("r"), seen(BOLD), stored(BOLD)])

        assert chain(trace(ledger.reader(), BOLD.key)) == ["stored file", "entry"]


@pytest.mark.parametrize("wanted", ["nothing", "abcdef123456", "f" * 64, "", "'; DROP TABLE event; --"])
def test_what_the_ledger_does_not_know_is_said_so(told: Reader, wanted: str) -> None:
    with pytest.raises(Stop, match="knows nothing about"):
        trace(told, wanted or "   ")


def test_what_fits_several_things_lists_them() -> None:
    other = entry("bolder", name=BOLD.name)
    with Ledger.in_memory(run_id="r") as ledger:
        ledger.append_many([*story(), seen(other)])

        with pytest.raises(Stop, match=r"fits 2 things: entry digits:bold\.safetensors, entry digits:bolder"):
            trace(ledger.reader(), BOLD.name)


@pytest.fixture
def published(tmp_path: Path, make_release: Callable[..., Release]) -> Path:
    """A folder on a real hub that holds BOLD's conversion."""
    publication = FolderHub(tmp_path / "hub").publish(make_release(conversion_id(BOLD)))
    return Path(publication.location)


def test_any_file_of_a_publication_and_its_folder_lead_back_to_the_source(told: Reader, published: Path) -> None:
    for path in (published, *sorted(published.iterdir())):
        assert chain(trace(told, path)) == WHOLE
        assert chain(trace(told, str(path))) == WHOLE


def test_a_source_file_is_known_by_its_bytes_wherever_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "renamed.safetensors"
    path.write_bytes(BOLD.entry_id.encode())
    with Ledger.in_memory(run_id="run-1") as ledger:
        ledger.append_many(story())

        assert trace(ledger.reader(), path).name == BOLD.key


def test_a_publication_of_another_ledger_is_named_as_such(published: Path) -> None:
    with Ledger.in_memory() as ledger, pytest.raises(Stop, match=r"conversion .* of another ledger"):
        trace(ledger.reader(), published / "bold.safetensors")


def test_a_tampered_file_beside_a_manifest_is_not_vouched_for(told: Reader, published: Path) -> None:
    (published / "bold.safetensors").write_bytes(b"tampered")

    with pytest.raises(Stop, match="knows nothing about"):
        trace(told, published / "bold.safetensors")


def test_a_conversion_without_a_score_says_so_and_where_its_file_is_and_what_it_lost() -> None:
    late = entry("late")
    with Ledger.in_memory(run_id="run-1") as ledger:
        ledger.append_many([*story(), seen(late), stored(late), read(late), converted(late)])
        ledger.append_many([outcome(late, "rejected", "not-scored", "no weights", with_conversion=True)])
        reader = ledger.reader()

    unscored, scored = trace(reader, "Late"), trace(reader, "Bold")
    assert "rejected (not-scored) no weights" in dict(unscored.facts).values()
    found = facts(unscored, "conversion")
    assert found["score"] == "none, and nothing is published without one"
    assert (found["dialect"], found["sites without a home"]) == ("diffusers", [f"{LOST} (no-target-site)"])
    assert "out.safetensors" in str(found["files"])
    assert "score" not in facts(scored, "conversion")
