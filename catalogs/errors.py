"""The errors of this package, by what the caller does next.

CatalogError
├── Refused     this item, for ever: record the reason and go on with the next one
├── TryLater    this item, now: the same call may work on another day
└── Stop        the run cannot go on
"""

from __future__ import annotations

NOT_SCORED = "not-scored"
NOT_PASSED = "not-passed"

REASONS: dict[str, str] = {
    # policy
    "no-derivatives": "The creator does not allow derivatives of this adapter.",
    "licence-unknown": "Nothing says under which terms this adapter may be used.",
    "licence-forbids": "The licence of this adapter is not among those that the policy allows.",
    "real-person": "The adapter depicts a real person.",
    "minor": "The adapter depicts a minor.",
    "gated": "The catalogue gives this adapter only to those it has granted access.",
    "opt-out": "The creator, or an entry of the opt-out list, asks that this adapter is left alone.",
    "not-an-adapter": "The catalogue says that this file is something else than an adapter.",
    "duplicate": "Another entry of the catalogue holds the same bytes.",
    # publication
    "not-scored": "Nothing could be measured of this conversion, so it is kept and never published.",
    "not-passed": "The gate has not let this conversion pass, so it is never published.",
    # store and hubs
    "hash-mismatch": "The bytes are not those that were declared.",
    "file-changed": "The file changed while it was being read.",
    "name-taken": "Something else already lies at the place of this publication.",
    "disk-full": "There is no room left for the file.",
    "unreadable": "The file cannot be opened.",
}
"""Each reason code of this package with its sentence. The codes are public: they are rows in the ledger."""


class CatalogError(Exception):
    """The root of all errors raised on purpose by this package."""


class _WithReason(CatalogError):  # noqa: N818
    """An error with a stable reason code: a key of `REASONS`, else KeyError."""

    def __init__(self, reason: str, message: str, *, where: str = "") -> None:
        REASONS[reason]
        super().__init__(f"{where}: {message}" if where else message)
        self.reason = reason
        self.message = message
        self.where = where


class Refused(_WithReason):
    """Refuses one item for ever: nothing but a change of the item itself would help."""


class TryLater(_WithReason):
    """Gives up on one item for now: the same call may work later."""


class Stop(CatalogError):  # noqa: N818
    """Stops the run: going on could lose or falsify something, or makes no sense."""
