"""The gate: thresholds on a score card, and the verdict with its reasons."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lorax.score_card import ScoreCard

FIGURE = "divergence_gain"

GATE_REASONS: dict[str, str] = {
    "gate-passed": "Every threshold of the gate was met.",
    "gate-non-finite": "A figure of the conversion is not a number, so its output is not either.",
    "gate-divergence-gain": "The lower end of the divergence gain's interval is under the gate's threshold.",
    "gate-not-better-than-random": "The conversion is not clearly better than a random update of the same size.",
    "gate-worse-than-copy": "Renaming the file would have served better: plain copy scores higher.",
}


@dataclass(frozen=True, slots=True)
class GateSettings:
    """Thresholds, all on the divergence gain (1 = as source+adapter, 0 = as doing nothing).

    divergence_gain: least lower end of the conversion's interval. margin_over_random: least distance to the random
    control's value. allowed_under_copy: how far the value may lie under plain copy's.
    """

    divergence_gain: float = 0.4
    margin_over_random: float = 0.1
    allowed_under_copy: float = 0.05


@dataclass(frozen=True, slots=True)
class Verdict:
    """`passed`, and (code, text) of every threshold that failed, or of `gate-passed`."""

    passed: bool
    reasons: tuple[tuple[str, str], ...]


def judge(card: ScoreCard, settings: GateSettings) -> Verdict:
    """Returns the verdict on the candidate `converted`; thresholds against controls apply where the card has them."""
    own = card.figures["converted"]
    wild = sorted(name for name, figure in own.items() if not math.isfinite(figure.value))
    if wild:
        return Verdict(
            passed=False, reasons=(("gate-non-finite", f"{', '.join(wild)} of the conversion is not finite"),)
        )
    failed = [reason for reason in (_low(card, settings), _random(card, settings), _copy(card, settings)) if reason]
    if failed:
        return Verdict(passed=False, reasons=tuple(failed))
    gain = own[FIGURE]
    passed = f"divergence gain {gain.value:.2f} [{gain.low:.2f}, {gain.high:.2f}] >= {settings.divergence_gain:.2f}"
    return Verdict(passed=True, reasons=(("gate-passed", passed),))


def _low(card: ScoreCard, settings: GateSettings) -> tuple[str, str] | None:
    gain = card.figures["converted"][FIGURE]
    if gain.low >= settings.divergence_gain:
        return None
    missing = settings.divergence_gain - gain.low
    text = (
        f"divergence gain {gain.value:.2f} [{gain.low:.2f}, {gain.high:.2f}], lower end wanted >= "
        f"{settings.divergence_gain:.2f}, short by {missing:.2f}"
    )
    return "gate-divergence-gain", text


def _random(card: ScoreCard, settings: GateSettings) -> tuple[str, str] | None:
    if "random" not in card.figures:
        return None
    own, random = card.figures["converted"][FIGURE].value, card.figures["random"][FIGURE].value
    if own >= random + settings.margin_over_random:
        return None
    text = f"divergence gain {own:.2f}, random control {random:.2f}, margin wanted {settings.margin_over_random:.2f}"
    return "gate-not-better-than-random", text


def _copy(card: ScoreCard, settings: GateSettings) -> tuple[str, str] | None:
    if "copy" not in card.figures:
        return None
    own, copied = card.figures["converted"][FIGURE].value, card.figures["copy"][FIGURE].value
    if own >= copied - settings.allowed_under_copy:
        return None
    allowed = settings.allowed_under_copy
    text = f"divergence gain {own:.2f}, plain copy {copied:.2f}, at most {allowed:.2f} under it allowed"
    return "gate-worse-than-copy", text
