"""The border at which one item's failure becomes a record, so that it never stops the others."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import catalogs.errors
import lorax.errors

T = TypeVar("T")

BAD_FILE = "bad-file"
UNSUPPORTED = "unsupported"
REFUSED = "refused"
TRY_LATER = "try-later"
UNEXPECTED = "unexpected"
"""Families of endings, by what is to be done about the item."""

FAMILIES = (
    (lorax.errors.BadFile, BAD_FILE),
    (lorax.errors.Unsupported, UNSUPPORTED),
    (lorax.errors.Refused, REFUSED),
    (catalogs.errors.Refused, REFUSED),
    (lorax.errors.TryLater, TRY_LATER),
    (catalogs.errors.TryLater, TRY_LATER),
)
"""The errors that carry a reason, the narrower ones first."""
REASONED = (lorax.errors.Refused, lorax.errors.TryLater, catalogs.errors.Refused, catalogs.errors.TryLater)

UNEXPECTED_ERROR = "unexpected-error"
TRACEBACK_CHARACTERS = 8000


@dataclass(frozen=True, slots=True)
class Ended:
    """Why one item goes no further."""

    family: str
    reason: str
    text: str
    traceback: str = ""


def attempt(work: Callable[[], T]) -> T | Ended:
    """Returns what `work` returns, or the record of why this item ended. Lets Stop pass: it concerns the whole run."""
    try:
        return work()
    except (catalogs.errors.Stop, lorax.errors.Stop):
        raise
    except REASONED as problem:
        family = next(family for kind, family in FAMILIES if isinstance(problem, kind))
        return Ended(family, problem.reason, str(problem))
    except MemoryError as problem:
        return Ended(TRY_LATER, "out-of-memory", f"{problem}; free some memory and run again")
    except Exception as problem:  # noqa: BLE001 - the one place where a defect becomes a row in the ledger
        return unexpected(problem)


def unexpected(problem: BaseException) -> Ended:
    """Returns the record of an item that ended by a defect, with its traceback."""
    lines = "".join(traceback.format_exception(problem))
    text = f"{type(problem).__name__}: {problem}"
    return Ended(UNEXPECTED, UNEXPECTED_ERROR, text, traceback=lines[-TRACEBACK_CHARACTERS:])
