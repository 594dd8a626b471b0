"""The six states an adapter can end in, and every reason code with its one sentence."""

from __future__ import annotations

from collections.abc import Mapping

import catalogs.errors
import lorax.errors
import lorax.gate_reasons
from tasks.border import BAD_FILE, REFUSED, TRY_LATER, UNEXPECTED, UNSUPPORTED, Ended

PUBLISHED = "published"
PASSED = "passed"
REJECTED = "rejected"
SKIPPED = "skipped"
QUARANTINED = "quarantined"
FAILED = "failed"

STATES: Mapping[str, str] = {
    PUBLISHED: "converted, passed the gate, and lies in the hub",
    PASSED: "converted and passed the gate, but not published: its terms or the migration do not allow it",
    REJECTED: "converted, but the gate did not open: a threshold failed, or nothing could be measured",
    SKIPPED: "sound, but not for this migration: policy, another base, or a form this version cannot move",
    QUARANTINED: "the file is broken or hostile",
    FAILED: "something went wrong that may work later; the next run tries again",
}
FINAL = frozenset(STATES) - {FAILED}
"""An entry in one of these states is done until its file, its sidecars or the settings change."""

PIPELINE_REASONS: Mapping[str, str] = {
    "dry-run": "A dry run converts nothing.",
    "other-base": "The adapter belongs to a known base model that no pair of this migration has as its source.",
    "publish-not-allowed": "The conversion passed the gate, but the policy does not allow to publish it.",
    "unexpected-error": "A defect in lorax or its surroundings; the ledger holds the traceback.",
}

_STATES_BY_FAMILY: Mapping[str, str] = {
    BAD_FILE: QUARANTINED,
    UNSUPPORTED: SKIPPED,
    REFUSED: SKIPPED,
    TRY_LATER: FAILED,
    UNEXPECTED: FAILED,
}


def state_of(why: Ended) -> str:
    """Returns the state of an entry that ended this way before it could be published."""
    return _STATES_BY_FAMILY[why.family]


def reasons() -> dict[str, str]:
    """Returns every reason code that an outcome can carry, with its sentence, sorted by code."""
    tables = (lorax.errors.REASONS, catalogs.errors.REASONS, lorax.gate_reasons.GATE_REASONS, PIPELINE_REASONS)
    return dict(sorted((code, sentence) for table in tables for code, sentence in table.items()))
