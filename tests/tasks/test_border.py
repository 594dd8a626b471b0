from __future__ import annotations

from typing import NoReturn

import pytest

import catalogs.errors
import lorax.errors
from tasks.border import BAD_FILE, REFUSED, TRY_LATER, UNEXPECTED, UNSUPPORTED, Ended, attempt


def raising(problem: BaseException) -> NoReturn:
    raise problem


def test_a_result_passes_as_it_is() -> None:
    assert attempt(lambda: {"family": "looks like an ending"}) == {"family": "looks like an ending"}


@pytest.mark.parametrize(
    ("problem", "family", "reason"),
    [
        (lorax.errors.BadFile("truncated", "cut", where="a.safetensors"), BAD_FILE, "truncated"),
        (lorax.errors.Unsupported("base-unknown", "which base?"), UNSUPPORTED, "base-unknown"),
        (lorax.errors.Refused("non-finite", "overflow"), REFUSED, "non-finite"),
        (catalogs.errors.Refused("duplicate", "twice"), REFUSED, "duplicate"),
        (lorax.errors.TryLater("out-of-memory", "no room"), TRY_LATER, "out-of-memory"),
        (catalogs.errors.TryLater("disk-full", "no room"), TRY_LATER, "disk-full"),
        (MemoryError("no room"), TRY_LATER, "out-of-memory"),
    ],
)
def test_each_error_becomes_a_record_of_its_family(problem: Exception, family: str, reason: str) -> None:
    record = attempt(lambda: raising(problem))
    assert isinstance(record, Ended)
    assert (record.family, record.reason, record.traceback) == (family, reason, "")
    assert str(problem) in record.text


def test_a_defect_becomes_a_record_with_its_traceback() -> None:
    record = attempt(lambda: raising(ZeroDivisionError("of all things")))
    assert isinstance(record, Ended)
    assert (record.family, record.reason) == (UNEXPECTED, "unexpected-error")
    assert record.text == "ZeroDivisionError: of all things"
    assert "in raising" in record.traceback


@pytest.mark.parametrize("kind", [catalogs.errors.Stop, lorax.errors.Stop, KeyboardInterrupt])
def test_what_concerns_the_whole_run_is_not_held_back(kind: type[BaseException]) -> None:
    with pytest.raises(kind):
        attempt(lambda: raising(kind("the whole run")))
