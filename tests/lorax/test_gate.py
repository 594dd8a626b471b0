from __future__ import annotations

import math
import re

import pytest

from lorax.errors import REASONS
from lorax.gate import DEFAULTS, GATE_REASONS, GateSettings, Outcome, effective, judge
from lorax.score_card import ScoreCard
from lorax.scorer import Figure

SETTINGS = GateSettings(divergence_gain=0.5, margin_over_random=0.1, allowed_under_copy=0.05)
WIDE = Figure(0.9, 0.85, 0.95)


def card(
    gain: Figure = WIDE,
    *,
    zero: Figure = WIDE,
    random: Figure = Figure(0.8, 0.75, 0.85),  # noqa: B008 - frozen
    copy: Figure | None = Figure(0.0, -0.01, 0.01),  # noqa: B008 - frozen
    kind: str = "language",
    **others: Figure,
) -> ScoreCard:
    """Returns a card with a divergence gain, its margins over rivals, and other figures of the conversion."""
    margins = {"zero": zero, "random": random, **({"copy": copy} if copy is not None else {})}
    own = {"divergence_gain": gain, "drift": Figure(0.1, 0.05, 0.2), **others}
    return ScoreCard({"converted": own, "random": {"divergence_gain": WIDE}}, "probe", margins, 16, kind)


def codes(given: ScoreCard, settings: GateSettings = SETTINGS) -> list[str]:
    return [code for code, _text in judge(given, settings).reasons]


def outcome(given: ScoreCard, settings: GateSettings = SETTINGS) -> Outcome:
    return judge(given, settings).outcome


def test_a_conversion_above_every_threshold_passes_with_its_figures_in_the_reason() -> None:
    verdict = judge(card(), SETTINGS)

    assert (verdict.outcome, verdict.passed) == ("pass", True)
    ((code, text),) = verdict.reasons
    assert code == "gate-passed"
    assert "0.90 [0.85, 0.95], at least 0.50 wanted" in text


@pytest.mark.parametrize(
    ("gain", "expected"),
    [
        (Figure(0.6, 0.5, 0.7), "pass"),
        (Figure(0.6, 0.49, 0.7), "uncertain"),
        (Figure(0.4, 0.3, 0.5), "uncertain"),
        (Figure(0.4, 0.3, 0.49), "fail"),
    ],
)
def test_the_whole_interval_has_to_meet_a_threshold_and_all_of_it_to_miss_it(gain: Figure, expected: str) -> None:
    assert outcome(card(gain)) == expected
    assert judge(card(gain), SETTINGS).passed == (expected == "pass")


def test_who_fails_is_told_which_threshold_and_by_how_much() -> None:
    ((code, text),) = judge(card(Figure(0.35, 0.3, 0.4)), SETTINGS).reasons

    assert code == "gate-divergence-gain"
    assert "0.35 [0.30, 0.40]" in text
    assert "its lower end is 0.20 off" in text


def test_a_threshold_in_doubt_is_named_with_what_it_would_fail_for() -> None:
    ((code, text),) = judge(card(Figure(0.6, 0.4, 0.8)), SETTINGS).reasons

    assert code == "gate-uncertain"
    assert re.match(r"gate-divergence-gain: .*0\.60 \[0\.40, 0\.80\]", text)


def test_a_threshold_that_fails_leaves_no_doubt_whatever_others_are() -> None:
    verdict = judge(card(Figure(0.6, 0.4, 0.8), copy=Figure(-0.3, -0.4, -0.2)), SETTINGS)

    assert verdict.outcome == "fail"
    assert [code for code, _ in verdict.reasons] == ["gate-worse-than-copy"]


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (card(zero=Figure(-0.2, -0.3, -0.1)), "gate-not-better-than-nothing"),
        (card(random=Figure(0.05, 0.0, 0.09)), "gate-not-better-than-random"),
        (card(copy=Figure(-0.1, -0.12, -0.06)), "gate-worse-than-copy"),
        (card(missing=Figure.exact(0.4)), "gate-missing"),
        (card(unison=Figure(0.6, 0.5, 0.7)), "gate-unison"),
    ],
)
def test_each_threshold_fails_with_its_own_code(given: ScoreCard, code: str) -> None:
    assert codes(given) == [code]
    assert outcome(given) == "fail"


def test_rivals_are_beaten_on_the_same_samples_and_not_by_their_own_figures() -> None:
    """The rival's own interval overlaps that of the conversion; sample by sample it lies clearly below."""
    rivals = {"divergence_gain": Figure(0.8, 0.6, 1.0)}
    close = card(Figure(0.9, 0.7, 1.1), copy=Figure(0.1, 0.08, 0.12))
    beside = ScoreCard({**close.figures, "copy": rivals}, "probe", close.margins, 16, "language")
    assert outcome(beside) == "pass"


def test_a_rival_that_fits_no_site_is_left_out() -> None:
    assert outcome(card(copy=None)) == "pass"


@pytest.mark.parametrize("name", ["divergence_gain", "drift", "missing"])
def test_a_figure_that_is_no_number_fails_and_is_named(name: str) -> None:
    given = card(**{"gain" if name == "divergence_gain" else name: Figure.exact(math.nan)})
    ((code, text),) = judge(given, SETTINGS).reasons

    assert outcome(given) == "fail"
    assert code == "gate-non-finite"
    assert name in text


def test_a_card_without_the_leading_figure_is_never_judged() -> None:
    with pytest.raises(KeyError):
        judge(ScoreCard({"converted": {"drift": WIDE}}, "probe"), SETTINGS)


def test_all_thresholds_that_fail_are_named() -> None:
    bad = card(Figure.exact(-1.0), zero=Figure.exact(-1.0), random=Figure.exact(-1.0), copy=Figure.exact(-1.5))
    assert codes(bad) == [
        "gate-divergence-gain",
        "gate-not-better-than-nothing",
        "gate-not-better-than-random",
        "gate-worse-than-copy",
    ]


def test_other_figures_have_thresholds_from_below_and_from_above() -> None:
    settings = GateSettings(0.5, least={"effect_cosine": 0.5}, most={"drift": 0.3})
    assert outcome(card(effect_cosine=Figure(0.7, 0.6, 0.8)), settings) == "pass"
    assert codes(card(effect_cosine=Figure(0.3, 0.2, 0.4)), settings) == ["gate-figure"]

    strict = GateSettings(0.5, most={"drift": 0.04})
    ((code, text),) = judge(card(), strict).reasons
    assert (outcome(card(), strict), code) == ("fail", "gate-figure")
    assert "drift 0.10 [0.05, 0.20], at most 0.04 wanted: its upper end is 0.16 off" in text
    assert outcome(card(), GateSettings(0.5, most={"drift": 0.1})) == "uncertain"


def test_a_threshold_on_a_figure_that_nobody_measured_says_nothing() -> None:
    assert outcome(card(), GateSettings(0.5, least={"likeness:dinov2": 0.9}, most={"forecast": 0.0})) == "pass"


@pytest.mark.parametrize("kind", sorted(DEFAULTS))
def test_what_is_left_open_has_the_default_of_the_kind_of_model(kind: str) -> None:
    usual = DEFAULTS[kind]
    assert effective(GateSettings(), kind) == usual
    inside, under = Figure.exact(usual.divergence_gain), Figure.exact(usual.divergence_gain - 0.01)
    assert outcome(card(inside, kind=kind), GateSettings()) == "pass"
    assert codes(card(under, kind=kind), GateSettings()) == ["gate-divergence-gain"]


def test_what_is_set_wins_figure_by_figure() -> None:
    usual = DEFAULTS["language"]
    found = effective(GateSettings(divergence_gain=0.0, most={"missing": 0.9, "drift": 1.0}), "language")
    assert (found.divergence_gain, found.margin_over_random) == (0.0, usual.margin_over_random)
    assert found.most == {**usual.most, "missing": 0.9, "drift": 1.0}


def test_an_unknown_kind_is_held_to_the_strictest_default() -> None:
    strictest = max(usual.divergence_gain for usual in DEFAULTS.values())
    assert effective(GateSettings(), "").divergence_gain == strictest


def test_every_code_is_explained_and_is_no_code_of_the_reader() -> None:
    bad = card(Figure.exact(-1.0), zero=Figure.exact(-1.0), random=Figure.exact(-1.0), copy=Figure.exact(-1.5))
    lacking = card(missing=Figure.exact(0.9), unison=Figure.exact(0.5))
    shown = [card(), bad, card(Figure.exact(math.nan)), lacking, card(Figure(0.5, 0.0, 1.0))]
    of_settings = codes(card(), GateSettings(least={"drift": 9.0}))
    assert {code for given in shown for code in codes(given)} | set(of_settings) == set(GATE_REASONS)
    assert not set(GATE_REASONS) & set(REASONS)
