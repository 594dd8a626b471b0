"""The thresholds of the gate, as they are set and as they apply. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Thresholds of the gate, none left open.

    divergence_gain: least divergence gain (1 = as source+adapter, 0 = as doing nothing). margin_over_random: least
    distance to the random control. allowed_under_copy: how far a conversion may lie under plain copy, on the same
    samples. least, most: thresholds on other figures by their names, for cards that have them.
    """

    divergence_gain: float
    margin_over_random: float = 0.1
    allowed_under_copy: float = 0.05
    least: Mapping[str, float] = field(default_factory=lambda: {"unison": 0.8})
    most: Mapping[str, float] = field(default_factory=lambda: {"missing": 0.2})


@dataclass(frozen=True, slots=True)
class GateSettings:
    """Thresholds as somebody sets them: None, and figures that are not named, for the default of the kind of model."""

    divergence_gain: float | None = None
    margin_over_random: float | None = None
    allowed_under_copy: float | None = None
    least: Mapping[str, float] = field(default_factory=dict)
    most: Mapping[str, float] = field(default_factory=dict)


DEFAULTS: dict[str, Thresholds] = {"language": Thresholds(0.52), "diffusion": Thresholds(0.52)}
"""By kind of model, chosen on one half of the adapters of the examples: docs/scoring.md."""


def effective(settings: GateSettings, kind: str) -> Thresholds:
    """Returns the thresholds that apply to models of a kind, "diffusion" or "language"; others go by the strictest."""
    usual = DEFAULTS.get(kind) or max(DEFAULTS.values(), key=lambda one: one.divergence_gain)
    return Thresholds(
        usual.divergence_gain if settings.divergence_gain is None else settings.divergence_gain,
        usual.margin_over_random if settings.margin_over_random is None else settings.margin_over_random,
        usual.allowed_under_copy if settings.allowed_under_copy is None else settings.allowed_under_copy,
        {**usual.least, **settings.least},
        {**usual.most, **settings.most},
    )
