"""The reason codes of the gate. Needs no torch, so that what was decided can be told quickly."""

from __future__ import annotations

GATE_REASONS: dict[str, str] = {
    "gate-passed": "Every threshold of the gate was met.",
    "gate-non-finite": "A figure of the conversion is not a number, so its output is not either.",
    "gate-divergence-gain": "The divergence gain lies under the gate's threshold.",
    "gate-not-better-than-nothing": "The conversion brings the target no nearer to what the adapter did at home.",
    "gate-not-better-than-random": "The conversion is not clearly better than a random update of the same size.",
    "gate-worse-than-copy": "Renaming the file would have served better: plain copy scores higher.",
    "gate-missing": "The conversion lacks a part of the adapter that has a home in the target.",
    "gate-unison": "The sites do not pull the same way, as if updates lay where they do not belong.",
    "gate-figure": "A figure misses the threshold that the migration sets for it.",
    "gate-uncertain": "The samples that the budget allows do not tell whether every threshold is met.",
}
"""Every code that a verdict can give, with one sentence for people."""
