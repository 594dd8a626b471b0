"""How an entry ends, as a fact for the ledger."""

from __future__ import annotations

from catalogs.ledger import Fact
from flows.journal import LATER
from flows.states import state_of
from flows.to_do import Item
from tasks.border import Ended


def outcome(item: Item, state: str, reason: str, text: str, *, traceback: str = "", is_later: bool = False) -> Fact:
    """Returns the fact that an entry has ended in a state; `is_later` where the next run has more to do about it."""
    body: dict[str, object] = {
        "work_key": item.work_key,
        "state": state,
        "reason": reason,
        "text": text,
        "conversion_id": item.conversion_id,
        "entry_id": item.found["entry"]["entry_id"],
        "name": item.name,
    }
    if traceback:
        body["traceback"] = traceback
    if item.refreshed:
        body["refreshed"] = item.refreshed
    if is_later:
        body[LATER] = True
    return "outcome", item.key, body


def verdict_on(item: Item) -> tuple[str, str]:
    """Returns the reason code of the verdict on an item's conversion, and what to say about it."""
    reason, text = (item.judged or {})["reasons"][0]
    return reason, f"{item.refreshed}: {text}" if item.refreshed else text


def outcome_of_ending(item: Item, why: Ended, *, state: str | None = None) -> Fact:
    """Returns the fact that an entry went no further; `state` where the place of the failure decides it."""
    return outcome(item, state or state_of(why), why.reason, why.text, traceback=why.traceback)
