from __future__ import annotations

from collections.abc import Iterator

import pytest

from catalogs.ledger import Ledger
from flows.journal import LATER, Journal, changed


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with Ledger.in_memory(run_id="r1") as opened:
        yield opened


def outcome(work_key: str, state: str) -> dict[str, object]:
    return {"work_key": work_key, "state": state}


def test_the_last_outcome_of_a_work_key_counts(ledger: Ledger) -> None:
    ledger.append("outcome", "c:a", outcome("k1", "failed"))
    assert Journal(ledger).settled() == {}
    ledger.append("outcome", "c:a", outcome("k1", "published"))
    assert Journal(ledger).settled() == {"k1": outcome("k1", "published")}


def test_work_under_other_settings_leaves_earlier_work_done(ledger: Ledger) -> None:
    ledger.append_many([("outcome", "c:a", outcome("k1", "published")), ("outcome", "c:a", outcome("k2", "failed"))])
    assert set(Journal(ledger).settled()) == {"k1"}


def test_what_the_next_run_has_more_to_do_about_is_not_settled_whatever_its_state(ledger: Ledger) -> None:
    ledger.append("outcome", "c:a", {**outcome("k1", "rejected"), LATER: True})
    assert Journal(ledger).settled() == {}
    ledger.append("outcome", "c:a", outcome("k1", "rejected"))
    assert set(Journal(ledger).settled()) == {"k1"}


def test_an_intent_is_pending_until_it_is_confirmed_and_again_after_the_next_intent(ledger: Ledger) -> None:
    journal = Journal(ledger)
    ledger.append("publication_intended", "id", {"hub": "folder"})
    assert set(journal.pending()) == {"id"}
    ledger.append("published", "id", {"hub": "folder"})
    assert journal.pending() == {}
    ledger.append("publication_intended", "id", {"hub": "folder"})
    assert set(journal.pending()) == {"id"}


def test_a_run_without_an_end_was_cut_short(ledger: Ledger) -> None:
    journal = Journal(ledger)
    assert not journal.was_cut_short("m")
    ledger.append("run_started", "r1", {"migration": "m"})
    assert journal.was_cut_short("m")
    assert not journal.was_cut_short("another")
    ledger.append("run_finished", "r1", {})
    assert not journal.was_cut_short("m")


def test_an_adapter_stands_under_the_first_of_the_entries_that_hold_it(ledger: Ledger) -> None:
    for key in ("c:b", "c:a", "c:z"):
        ledger.append("adapter_read", "w", {"entry_key": key, "adapter_id": "x"})
    assert Journal(ledger).standing_adapters(["c:b", "c:z"]) == {"x": "c:b"}


def test_saying_the_same_again_adds_nothing() -> None:
    facts = [("entry_seen", "c:a", {"n": 1}), ("entry_seen", "c:b", {"n": 2})]
    assert changed(facts, {"c:a": {"n": 1}, "c:b": {"n": 1}}) == facts[1:]
