from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from catalogs.errors import Refused, Stop
from catalogs.ledger import Ledger, Reader
from catalogs.provenance import (
    ConversionRecord,
    conversion_record,
    provenance_document,
    require_publishable,
    require_publishable_release,
    write_manifest,
)
from catalogs.release import open_release
from tests.stand_ins.ledger_story import (
    BOLD,
    PLAN,
    SOURCE_FINGERPRINT,
    TARGET_FINGERPRINT,
    compiled,
    conversion_id,
    converted,
    digest,
    entry,
    judged,
    read,
    scored,
    seen,
    started,
    story,
)


@pytest.fixture
def record(told: Reader) -> ConversionRecord:
    return conversion_record(told, conversion_id(BOLD))


def empty_places(value: object, where: str = "") -> Iterator[str]:
    """Names every None, "" and {} inside a document."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from empty_places(item, f"{where}.{key}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from empty_places(item, f"{where}[{number}]")
    if value in (None, "", {}):
        yield where


def test_the_record_gathers_every_step_of_a_conversion(record: ConversionRecord, told: Reader) -> None:
    last = told.events()[-1]

    assert record.entry == BOLD
    assert record.source_sha256 == digest(BOLD.entry_id)
    assert (record.method, record.settings, record.plan_id) == ("calibrated", {"ridge": 0.01}, PLAN)
    assert (record.source_fingerprint, record.target_fingerprint) == (SOURCE_FINGERPRINT, TARGET_FINGERPRINT)
    assert (record.sites_mapped, record.sites_total, record.dropped_norm_share) == (23, 24, 0.0125)
    assert record.figures["converted"]["divergence_gain"]["value"] == pytest.approx(0.91)
    assert (record.passed, record.gate) == (True, {"divergence_gain": 0.5})
    assert (record.run_id, record.code_version) == ("run-1", "0.1.0+abc1234")
    assert (record.ledger_head.sequence, record.ledger_head.hash) == (last.sequence, last.hash)


def test_the_ledger_and_a_reader_of_it_give_the_same_record() -> None:
    with Ledger.in_memory(run_id="run-1") as ledger:
        ledger.append_many(story())

        assert conversion_record(ledger, conversion_id(BOLD)) == conversion_record(ledger.reader(), conversion_id(BOLD))


def test_a_conversion_that_never_was_has_no_record(told: Reader) -> None:
    with pytest.raises(Stop, match="holds no conversion"):
        conversion_record(told, "f" * 64)


def test_equal_tensors_in_another_file_do_not_lend_their_file_hash() -> None:
    twin = entry("twin")
    kind, subject, body = read(twin)
    with Ledger.in_memory(run_id="run-1") as ledger:
        ledger.append_many([started("run-1"), seen(BOLD), read(BOLD), compiled(), converted(BOLD), scored(BOLD, 0.9)])
        ledger.append_many([judged(BOLD, passed=True), (kind, read(BOLD)[1], body)])

        assert subject != read(BOLD)[1]
        assert conversion_record(ledger, conversion_id(BOLD)).source_sha256 == digest(BOLD.entry_id)


def test_the_document_is_a_statement_with_slsa_provenance(record: ConversionRecord) -> None:
    document: dict[str, Any] = provenance_document(
        record, title="Bold", files={"b.safetensors": "1" * 64, "README.md": "2" * 64}
    )

    assert document["_type"] == "https://in-toto.io/Statement/v1"
    assert document["predicateType"] == "https://slsa.dev/provenance/v1"
    assert document["subject"] == [
        {"name": "README.md", "digest": {"sha256": "2" * 64}},
        {"name": "b.safetensors", "digest": {"sha256": "1" * 64}},
    ]
    assert (document["conversion_id"], document["title"]) == (conversion_id(BOLD), "Bold")
    definition = document["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["method"] == "calibrated"
    digests = {one["name"]: one.get("digest", {}).get("sha256") for one in definition["resolvedDependencies"]}
    assert digests == {
        "source adapter": digest(BOLD.entry_id),
        "source base": SOURCE_FINGERPRINT,
        "target base": TARGET_FINGERPRINT,
        "plan": PLAN,
        "code": None,
    }
    details = document["predicate"]["runDetails"]
    assert details["metadata"]["invocationId"] == "run-1"
    assert {one["name"] for one in details["byproducts"]} == {"transfer", "score card", "verdict", "ledger"}


def test_no_field_of_a_full_record_is_left_empty(record: ConversionRecord) -> None:
    document = provenance_document(record, title="Bold", files={"b.safetensors": "1" * 64})
    terms = ".predicate.buildDefinition.resolvedDependencies[0].annotations.terms"

    assert set(empty_places(document)) <= {
        f"{terms}.allow_no_credit",
        f"{terms}.allow_different_licence",
        ".predicate.buildDefinition.internalParameters.versions",
    }


def test_no_path_of_this_machine_is_told_to_strangers(record: ConversionRecord) -> None:
    text = json.dumps(provenance_document(record, title="Bold", files={}))

    assert BOLD.weights not in text
    assert "/catalogue/" not in text


def test_a_manifest_closes_a_folder_into_a_release(record: ConversionRecord, tmp_path: Path) -> None:
    (tmp_path / "bold.safetensors").write_bytes(b"weights")
    (tmp_path / "README.md").write_text("# Bold")

    release = write_manifest(tmp_path, record, title="Bold")

    assert release == open_release(tmp_path)
    assert [name for name, _ in release.files] == ["README.md", "bold.safetensors", "provenance.json"]
    assert release.conversion_id == conversion_id(BOLD)
    assert write_manifest(tmp_path, record, title="Bold") == release  # the same record, the same bytes


def test_figures_that_are_not_finite_still_make_valid_json(record: ConversionRecord, tmp_path: Path) -> None:
    with Ledger.in_memory(run_id="run-1") as ledger:
        ledger.append_many(story())
        ledger.append("scored", conversion_id(BOLD), {"figures": {"converted": {"drift": {"value": float("nan")}}}})
        odd = conversion_record(ledger, conversion_id(BOLD))
    write_manifest(tmp_path, odd, title="Bold")

    assert "NaN" not in (tmp_path / "provenance.json").read_text()


def test_what_was_scored_and_passed_may_be_published(record: ConversionRecord, tmp_path: Path) -> None:
    require_publishable(record)
    require_publishable_release(write_manifest(tmp_path, record, title="Bold"))


@pytest.mark.parametrize(
    ("lacking", "reason"),
    [
        ({"figures": {}}, "not-scored"),
        ({"figures": {"copy": {"divergence_gain": {"value": 0.5}}}}, "not-scored"),
        ({"figures": {"converted": {}}}, "not-scored"),
        ({"passed": None}, "not-passed"),
        ({"passed": False}, "not-passed"),
    ],
)
def test_what_was_not_scored_or_did_not_pass_may_not(
    record: ConversionRecord, tmp_path: Path, lacking: dict[str, Any], reason: str
) -> None:
    unfit = dataclasses.replace(record, **lacking)
    with pytest.raises(Refused, match=f"conversion {record.conversion_id}") as by_record:
        require_publishable(unfit)
    with pytest.raises(Refused) as by_release:
        require_publishable_release(write_manifest(tmp_path, unfit, title="Bold"))
    assert by_record.value.reason == by_release.value.reason == reason


@pytest.mark.parametrize("statement", ["[]", '{"predicate": 7}', '{"predicate": {"runDetails": {"byproducts": [1]}}}'])
def test_a_manifest_without_any_of_it_may_not_either(record: ConversionRecord, tmp_path: Path, statement: str) -> None:
    release = write_manifest(tmp_path, record, title="Bold")
    (tmp_path / "provenance.json").write_text(statement)
    with pytest.raises(Refused) as caught:
        require_publishable_release(release)
    assert caught.value.reason == "not-scored"


def test_the_dialect_of_a_record_is_that_of_the_written_files(record: ConversionRecord) -> None:
    assert (read(BOLD)[2]["dialect"], record.dialect) == ("kohya", "diffusers")
