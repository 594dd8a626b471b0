"""What every quantisation keeps: it is told apart from the others, and gives back weights or says why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorax.errors import Stop
from lorax.quantisation import Quantisation, join_quantised
from lorax.quantisations import QUANTISATIONS

READ = [one for one in QUANTISATIONS.values() if not one.refusal]


@pytest.mark.parametrize("one", QUANTISATIONS.values(), ids=list(QUANTISATIONS))
def test_it_says_what_it_is_and_how_configurations_spell_it(one: Quantisation) -> None:
    assert one.summary
    assert one.methods
    assert bool(one.refusal) != bool(one.required)


@pytest.mark.parametrize("one", QUANTISATIONS.values(), ids=list(QUANTISATIONS))
def test_the_page_about_base_models_names_it(one: Quantisation) -> None:
    page = Path("docs/bases.md").read_text(encoding="utf-8")

    assert all(f"`{method}`" in page for method in one.methods)


@pytest.mark.parametrize("one", READ, ids=lambda one: one.name)
def test_it_claims_its_own_tensors_and_no_bare_weight(one: Quantisation) -> None:
    marks = one.marks or one.required

    assert all(one.claims(one.required | {mark}) for mark in marks)
    assert not one.claims(frozenset({"weight"})) or one.needs_settings
    assert not one.claims(frozenset({"bias"}))
    assert not one.claims(one.required | one.marks | {"something_else"})


@pytest.mark.parametrize("one", [one for one in QUANTISATIONS.values() if one.refusal], ids=lambda one: one.name)
def test_a_refused_one_stops_the_run_with_its_reason(one: Quantisation) -> None:
    with pytest.raises(Stop, match="without quantisation") as raised:
        join_quantised({}, {"quant_method": next(iter(one.methods))}, where="somewhere")

    assert one.refusal in str(raised.value)


def test_two_that_are_read_without_settings_share_no_tensors() -> None:
    clear = [one for one in READ if not one.needs_settings]

    for one in clear:
        for mark in one.marks or one.required:
            roles = one.required | {mark}
            assert [other.name for other in clear if other.claims(roles)] == [one.name]
