"""How an entry ends, as a fact for the ledger."""

from __future__ import annotations

from catalogs.ledger import Fact
from flows.states import state_of
from flows.to_do import Item
from tasks.border import Ended


def outcome(item: Item, state: str, reason: str, text: str, *, traceback: str = "") -> Fact:
    """Returns the fact that an entry has ended in a state."""
    body: dict[str, object] = {
        "work_key": item.work_key,
        "state": state,
        "reason": reason,
        "text": text,
        "conversion_id": item.conversion_id,
        "entry_id": item.found["entry"]["entry_id"],
        "name": item.name,
    }
    return "outcome", item.key, {**body, "traceback": traceback} if traceback else body


def outcome_of_ending(item: Item, why: Ended, *, state: str | None = None) -> Fact:
    """Returns the fact that an entry went no further; `state` where the place of the failure decides it."""
    return outcome(item, state or state_of(why), why.reason, why.text, traceback=why.traceback)
