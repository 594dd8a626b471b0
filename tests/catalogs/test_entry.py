from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from catalogs.entry import CatalogEntry, Terms

texts = st.text(max_size=20)
maybe = st.none() | st.booleans()
tuples = st.lists(texts, max_size=3).map(tuple)
terms = st.builds(
    Terms,
    licence=st.none() | texts,
    allow_derivatives=maybe,
    allow_commercial_use=tuples,
    allow_no_credit=maybe,
    allow_different_licence=maybe,
)
entries = st.builds(
    CatalogEntry,
    catalogue=texts,
    entry_id=texts,
    name=texts,
    weights=texts,
    config=st.none() | texts,
    sidecars=tuples,
    terms=terms,
    trigger_words=tuples,
    prompts=tuples,
    size_bytes=st.integers(0, 2**40),
    real_person=st.booleans(),
    notes=tuples,
)


@given(entries)
def test_an_entry_survives_the_way_through_json(entry: CatalogEntry) -> None:
    assert CatalogEntry.from_json(json.loads(json.dumps(entry.to_json()))) == entry


def test_an_entry_of_a_newer_version_is_read_without_its_new_keys() -> None:
    values: dict[str, Any] = CatalogEntry("civitai", "7", "Bold", "x").to_json()
    values["rating"] = 5
    values["terms"]["mood"] = "generous"

    assert CatalogEntry.from_json(values) == CatalogEntry("civitai", "7", "Bold", "x")


def test_the_key_names_catalogue_and_entry() -> None:
    assert CatalogEntry("digits", "a/b.safetensors", "b", "").key == "digits:a/b.safetensors"


def test_terms_are_known_once_a_licence_or_a_permission_is_stated() -> None:
    assert not Terms(allow_no_credit=True).is_known
    assert Terms(licence="mit").is_known
    assert Terms(allow_derivatives=False).is_known
