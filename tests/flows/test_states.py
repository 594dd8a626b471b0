from __future__ import annotations

import pytest

import catalogs.errors
import lorax.errors
from flows.states import FAILED, FINAL, PIPELINE_REASONS, QUARANTINED, SKIPPED, STATES, reasons, state_of
from lorax.gate import GATE_REASONS
from tasks.border import BAD_FILE, FAMILIES, REFUSED, TRY_LATER, UNEXPECTED, UNSUPPORTED, Ended


def test_there_are_six_states_and_only_failed_is_tried_again() -> None:
    assert len(STATES) == 6
    assert set(STATES) - FINAL == {FAILED}


@pytest.mark.parametrize(
    ("family", "state"),
    [(BAD_FILE, QUARANTINED), (UNSUPPORTED, SKIPPED), (REFUSED, SKIPPED), (TRY_LATER, FAILED), (UNEXPECTED, FAILED)],
)
def test_each_family_of_endings_has_its_state(family: str, state: str) -> None:
    assert state_of(Ended(family, "duplicate", "because")) == state


def test_no_family_is_without_a_state() -> None:
    for family in {family for _, family in FAMILIES}:
        assert state_of(Ended(family, "duplicate", "because")) in STATES


def test_a_reason_code_means_one_thing_wherever_it_comes_from() -> None:
    tables = (lorax.errors.REASONS, catalogs.errors.REASONS, GATE_REASONS, PIPELINE_REASONS)
    meanings = {(code, sentence) for table in tables for code, sentence in table.items()}
    assert sorted(code for code, _ in meanings) == list(reasons())
