"""The gate: thresholds on a score card, and the verdict with its reasons.

A figure meets a threshold when its whole interval does, and misses it when none of its interval meets it. In between
nobody knows: the verdict is uncertain, and more samples are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from lorax.gate_reasons import GATE_REASONS
from lorax.gate_settings import DEFAULTS, GateSettings, Thresholds, effective
from lorax.score_card import CONVERTED, ScoreCard
from lorax.scorer import Figure

FIGURE = "divergence_gain"
Outcome = Literal["pass", "fail", "uncertain"]

__all__ = ["DEFAULTS", "GATE_REASONS", "GateSettings", "Thresholds", "Verdict", "effective", "judge"]


_CODES = {"missing": "gate-missing", "unison": "gate-unison"}
"""Codes of figures that have one of their own."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`outcome`, and (code, text) of every threshold that failed or is in doubt, or of `gate-passed`."""

    outcome: Outcome
    reasons: tuple[tuple[str, str], ...]

    @property
    def passed(self) -> bool:
        """Tells whether the conversion may be published."""
        return self.outcome == "pass"


@dataclass(frozen=True, slots=True)
class _Rule:
    """A figure of the conversion, the threshold that it is held to, and what is said when it misses it."""

    code: str
    name: str
    figure: Figure
    threshold: float
    at_least: bool = True

    @property
    def outcome(self) -> Outcome:
        """Gives whether all, none or a part of the figure's interval meets the threshold."""
        low, high = (self.figure.low, self.figure.high) if self.at_least else (-self.figure.high, -self.figure.low)
        threshold = self.threshold if self.at_least else -self.threshold
        return "pass" if low >= threshold else "fail" if high < threshold else "uncertain"

    def text(self) -> str:
        """Says figure, interval and threshold, and by how much it is missed."""
        figure, wanted = self.figure, "at least" if self.at_least else "at most"
        seen = f"{self.name} {figure.value:.2f} [{figure.low:.2f}, {figure.high:.2f}]"
        if self.outcome == "pass":
            return f"{seen}, {wanted} {self.threshold:.2f} wanted"
        off = self.threshold - figure.low if self.at_least else figure.high - self.threshold
        end = "lower" if self.at_least else "upper"
        return f"{seen}, {wanted} {self.threshold:.2f} wanted: its {end} end is {off:.2f} off"


def judge(card: ScoreCard, settings: GateSettings) -> Verdict:
    """Returns the verdict on the candidate `converted`; thresholds on rivals and figures apply where the card has them.

    The leading figure is never left out: a card without it is a KeyError.
    """
    own = card.figures[CONVERTED]
    wild = sorted(name for name, figure in own.items() if not math.isfinite(figure.value))
    if wild:
        return Verdict("fail", (("gate-non-finite", f"{', '.join(wild)} of the conversion is not finite"),))
    rules = list(_rules(card, effective(settings, card.kind)))
    for outcome in ("fail", "uncertain"):
        if found := tuple((rule.code, rule.text()) for rule in rules if rule.outcome == outcome):
            return Verdict(outcome, found if outcome == "fail" else _doubts(found))
    return Verdict("pass", (("gate-passed", rules[0].text()),))


def _doubts(found: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return tuple(("gate-uncertain", f"{code}: {text}") for code, text in found)


def _rules(card: ScoreCard, thresholds: Thresholds) -> Iterator[_Rule]:
    """Yields every threshold that applies, that on the leading figure first."""
    own = card.figures[CONVERTED]
    yield _Rule("gate-divergence-gain", "divergence gain", own[FIGURE], thresholds.divergence_gain)
    margins = (
        ("gate-not-better-than-nothing", "zero", 0.0),
        ("gate-not-better-than-random", "random", thresholds.margin_over_random),
        ("gate-worse-than-copy", "copy", -thresholds.allowed_under_copy),
    )
    for code, rival, margin in margins:
        if rival in card.margins:
            yield _Rule(code, f"divergence gain over that of {rival}", card.margins[rival], margin)
    for name, threshold in thresholds.least.items():
        if name in own:
            yield _Rule(_CODES.get(name, "gate-figure"), name, own[name], threshold)
    for name, threshold in thresholds.most.items():
        if name in own:
            yield _Rule(_CODES.get(name, "gate-figure"), name, own[name], threshold, at_least=False)
