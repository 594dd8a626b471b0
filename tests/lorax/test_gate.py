from __future__ import annotations

import math

import pytest

from lorax.gate import GATE_REASONS, GateSettings, judge
from lorax.score_card import ScoreCard
from lorax.scorer import Figure

SETTINGS = GateSettings(divergence_gain=0.5, margin_over_random=0.1, allowed_under_copy=0.05)


def card(converted: float, *, low: float | None = None, copy: float = 0.0, random: float = -0.5) -> ScoreCard:
    def figures(value: float, least: float) -> dict[str, Figure]:
        return {"divergence_gain": Figure(value, least, value + 0.05), "drift": Figure(0.1, 0.1, 0.1)}

    own = figures(converted, converted - 0.05 if low is None else low)
    return ScoreCard({"converted": own, "copy": figures(copy, copy), "random": figures(random, random)}, "probe")


def codes(given: ScoreCard, settings: GateSettings = SETTINGS) -> list[str]:
    return [code for code, _text in judge(given, settings).reasons]


def test_a_conversion_above_every_threshold_passes_with_its_figures_in_the_reason() -> None:
    verdict = judge(card(0.9, copy=0.92), SETTINGS)

    assert verdict.passed
    assert verdict.reasons[0][0] == "gate-passed"
    assert "0.90 [0.85, 0.95]" in verdict.reasons[0][1]


def test_the_lower_end_of_the_interval_decides_and_not_the_value() -> None:
    assert codes(card(0.9, low=0.3)) == ["gate-divergence-gain"]
    assert "short by 0.20" in judge(card(0.9, low=0.3), SETTINGS).reasons[0][1]


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (card(0.9, copy=0.99), "gate-worse-than-copy"),
        (card(0.9, random=0.85), "gate-not-better-than-random"),
        (card(math.nan), "gate-non-finite"),
    ],
)
def test_each_threshold_fails_with_its_own_code(given: ScoreCard, code: str) -> None:
    assert codes(given) == [code]
    assert not judge(given, SETTINGS).passed


def test_all_thresholds_that_fail_are_named() -> None:
    assert codes(card(-1.0, copy=0.5, random=0.0)) == [
        "gate-divergence-gain",
        "gate-not-better-than-random",
        "gate-worse-than-copy",
    ]


def test_every_code_is_explained() -> None:
    seen = {*codes(card(0.9)), *codes(card(-1.0, copy=0.5, random=0.0)), *codes(card(math.nan))}

    assert seen == set(GATE_REASONS)
