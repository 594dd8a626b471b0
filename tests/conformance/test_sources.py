"""What every kind of catalogue has to do. A new file in catalogs/sources/ is tested here by itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from catalogs.entry import CatalogEntry
from catalogs.errors import Stop
from catalogs.hash_chain import canonical_json
from catalogs.policy import Policy, decide
from catalogs.source import Source
from catalogs.sources import SOURCES

every_source = pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)


@pytest.fixture
def location(tmp_path: Path) -> Path:
    """A small catalogue on disk. A source that reads something else brings its own location for its own kind."""
    root = tmp_path / "catalogue"
    (root / "styles").mkdir(parents=True)
    for name in ("bold", "thin"):
        (root / "styles" / f"{name}.safetensors").write_bytes(name.encode())
    sidecar = {"baseModel": "SD 1.5", "model": {"name": "Bold", "type": "LORA"}, "allowDerivatives": False}
    (root / "styles" / "bold.civitai.info").write_text(json.dumps(sidecar))
    (root / "styles" / "thin.json").write_text("{broken")
    (root / "page.safetensors").write_text("<html>")
    (root / "old.ckpt").write_bytes(b"\x80\x02")
    return root


def scan(source: Source, location: Path) -> list[CatalogEntry]:
    return list(source.scan(location, catalogue="here"))


@every_source
def test_it_says_what_it_is(source: Source) -> None:
    assert SOURCES[source.name] is source
    assert source.summary
    assert "\n" not in source.summary


@every_source
def test_every_weights_file_is_an_entry_whatever_its_content(source: Source, location: Path) -> None:
    assert len(scan(source, location)) == 4


@every_source
def test_two_scans_give_equal_entries_in_equal_order(source: Source, location: Path) -> None:
    assert scan(source, location) == scan(source, location)


@every_source
def test_keys_are_unique_and_begin_with_the_name_of_the_catalogue(source: Source, location: Path) -> None:
    keys = [entry.key for entry in scan(source, location)]

    assert len(set(keys)) == len(keys)
    assert all(key.startswith("here:") for key in keys)


@every_source
def test_a_prohibition_in_the_metadata_reaches_the_policy(source: Source, location: Path) -> None:
    decisions = {entry.name: decide(entry, Policy()) for entry in scan(source, location)}

    assert [code for code, _ in decisions["Bold"].reasons] == ["no-derivatives"]
    assert not decisions["Bold"].convert


@every_source
def test_an_entry_fits_into_the_ledger_and_comes_back(source: Source, location: Path) -> None:
    for entry in scan(source, location):
        assert CatalogEntry.from_json(json.loads(canonical_json(entry.to_json()))) == entry


@every_source
def test_what_strangers_are_shown_holds_no_path_of_this_machine(source: Source, location: Path) -> None:
    for entry in scan(source, location):
        assert str(location) not in entry.origin
        assert entry.origin


@every_source
def test_a_place_that_cannot_be_read_stops_the_run(source: Source, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        scan(source, tmp_path / "nowhere")
