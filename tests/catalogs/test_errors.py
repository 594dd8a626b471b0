from __future__ import annotations

import pytest

from catalogs.errors import REASONS, CatalogError, Refused, Stop, TryLater


@pytest.mark.parametrize("kind", [Refused, TryLater])
def test_an_error_with_an_unknown_reason_cannot_be_made(kind: type[Refused | TryLater]) -> None:
    with pytest.raises(KeyError):
        kind("no-such-reason", "text")


def test_an_error_says_where_what_and_why() -> None:
    error = Refused("name-taken", "something else lies there; move it away", where="hub/bold")

    assert str(error) == "hub/bold: something else lies there; move it away"
    assert (error.reason, error.where) == ("name-taken", "hub/bold")


def test_the_families_do_not_catch_each_other() -> None:
    for family in (Refused, TryLater, Stop):
        others = {Refused, TryLater, Stop} - {family}
        assert not any(issubclass(family, other) for other in others)
        assert issubclass(family, CatalogError)


def test_every_reason_is_a_code_and_one_sentence() -> None:
    for code, sentence in REASONS.items():
        assert code == code.lower()
        assert " " not in code
        assert sentence.endswith(".")
        assert sentence.count(". ") == 0
