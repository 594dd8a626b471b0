from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogs.entry import CatalogEntry, Terms
from catalogs.errors import REASONS
from catalogs.policy import Policy, decide, originals

FREE = Terms(licence="cc-by-4.0", allow_derivatives=True)


def entry(entry_id: str = "a", *, terms: Terms = FREE, **changes: object) -> CatalogEntry:
    return CatalogEntry("c", entry_id, entry_id, "", terms=terms, **changes)  # type: ignore[arg-type]


def codes(decision: object) -> list[str]:
    return [code for code, _ in decision.reasons]  # type: ignore[attr-defined]


def test_a_free_adapter_may_be_converted_and_published() -> None:
    decision = decide(entry(), Policy())

    assert (decision.convert, decision.publish, decision.reasons) == (True, True, ())


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"terms": Terms(allow_derivatives=False)}, "no-derivatives"),
        ({"terms": Terms(licence="mit", allow_derivatives=False)}, "no-derivatives"),
        ({"terms": Terms(licence="CC-BY-ND-4.0")}, "no-derivatives"),
        ({"terms": Terms(licence="cc by nc nd 4.0")}, "no-derivatives"),
        ({"real_person": True}, "real-person"),
        ({"minor": True}, "minor"),
        ({"gated": True}, "gated"),
        ({"opt_out": True}, "opt-out"),
        ({"kind": "Checkpoint"}, "not-an-adapter"),
    ],
)
def test_what_is_forbidden_is_neither_converted_nor_published(changes: dict[str, object], code: str) -> None:
    decision = decide(entry(**changes), Policy())  # type: ignore[arg-type]

    assert (decision.convert, decision.publish) == (False, False)
    assert codes(decision) == [code]


@pytest.mark.parametrize("kind", ["LORA", "LoCon", "DoRA", ""])
def test_the_kinds_of_adapters_are_adapters(kind: str) -> None:
    assert decide(entry(kind=kind), Policy()).convert


@pytest.mark.parametrize(
    ("setting", "convert", "publish"), [("skip", False, False), ("convert", True, False), ("publish", True, True)]
)
def test_the_policy_says_what_happens_without_any_terms(setting: str, convert: bool, publish: bool) -> None:  # noqa: FBT001
    decision = decide(entry(terms=Terms()), Policy(licence_unknown=setting))  # type: ignore[arg-type]

    assert (decision.convert, decision.publish) == (convert, publish)
    assert codes(decision) == ([] if publish else ["licence-unknown"])


def test_a_licence_outside_the_allowed_ones_is_refused_by_name() -> None:
    decision = decide(entry(terms=Terms(licence="weird-1.0")), Policy(licences_allowed=("MIT", "cc-by-4.0")))

    assert codes(decision) == ["licence-forbids"]
    assert "'weird-1.0'" in decision.reasons[0][1]
    assert decide(entry(terms=Terms(licence="mit")), Policy(licences_allowed=("MIT",))).publish


def test_derivatives_for_private_use_are_converted_but_never_published() -> None:
    decision = decide(entry(terms=Terms(allow_derivatives=False)), Policy(require_derivatives=False))

    assert (decision.convert, decision.publish) == (True, False)


@pytest.mark.parametrize("pattern", ["some*", "STYLES/?.safetensors", "https://civitai.com/models/7*"])
def test_the_opt_out_list_fits_names_places_and_creators(pattern: str) -> None:
    one = entry("styles/a.safetensors", creator="somebody", origin="https://civitai.com/models/7?modelVersionId=1")

    assert codes(decide(one, Policy(opt_out=(pattern,)))) == ["opt-out"]
    assert decide(one, Policy(opt_out=("other*",))).publish


def test_a_copy_without_a_sidecar_does_not_wash_the_terms_away() -> None:
    copy = entry("a-copy", terms=Terms())
    locked = entry("z-locked", terms=Terms(allow_derivatives=False))

    decision = decide(copy, Policy(licence_unknown="publish"), twins=[locked])

    assert not decision.convert
    assert decision.reasons[0][0] == "no-derivatives"
    assert "z-locked" in decision.reasons[0][1]


def test_terms_that_a_twin_states_are_known_terms() -> None:
    assert decide(entry(terms=Terms()), Policy(licence_unknown="skip"), twins=[entry("b")]).publish


flags = st.booleans()
any_entry = st.builds(
    lambda person, minor, gated, opt_out, derivatives, licence, kind: entry(
        terms=Terms(licence=licence, allow_derivatives=derivatives),
        real_person=person,
        minor=minor,
        gated=gated,
        opt_out=opt_out,
        kind=kind,
    ),
    flags,
    flags,
    flags,
    flags,
    st.none() | flags,
    st.sampled_from([None, "mit", "cc-by-nd-4.0", "x"]),
    st.sampled_from(["", "lora", "vae"]),
)
any_policy = st.builds(
    Policy,
    licences_allowed=st.sampled_from([None, (), ("mit",)]),
    licence_unknown=st.sampled_from(["skip", "convert", "publish"]),
    require_derivatives=flags,
)


@given(any_entry, any_policy)
def test_nothing_is_published_that_may_not_be_converted_and_every_no_has_a_reason(
    one: CatalogEntry, policy: Policy
) -> None:
    decision = decide(one, policy)

    assert decision.convert or not decision.publish
    assert decision.publish == (not decision.reasons)
    assert all(code in REASONS and text for code, text in decision.reasons)
    if one.real_person or one.minor or one.terms.allow_derivatives is False:
        assert not decision.publish


@given(any_entry, any_entry, any_policy)
def test_a_twin_never_opens_what_the_entry_itself_forbids(
    one: CatalogEntry, twin: CatalogEntry, policy: Policy
) -> None:
    alone, together = decide(one, policy), decide(one, policy, twins=[twin])

    assert alone.convert or not together.convert or codes(alone) == ["licence-unknown"]


def test_the_original_of_equal_bytes_is_the_first_by_name_whatever_the_order() -> None:
    contents = {"b": "1", "a": "1", "c": "2", "d": "1"}
    shuffled = list(contents.items())
    random.Random(0).shuffle(shuffled)

    assert originals(contents) == {"a": "a", "b": "a", "c": "c", "d": "a"}
    assert originals(dict(shuffled)) == originals(contents)
