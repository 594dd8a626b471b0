"""A verdict that is as certain as the budget allows: where a figure is too vague, more samples are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lorax.adapter import Adapter
from lorax.gate import GateSettings, Verdict, judge
from lorax.probe import ProbeSettings
from lorax.score import ScoreBench
from lorax.score_card import ScoreCard

_ROUNDS_APART = 7919
"""Distance of the seeds of one round of samples and the next; probes use the numbers next to their seed as well."""


def score_and_judge(
    bench: ScoreBench,
    adapter: Adapter,
    candidates: Mapping[str, Adapter],
    gate: GateSettings,
    *,
    fingerprints: Sequence[str] = (),
    examples: Sequence[str] = (),
) -> tuple[ScoreCard, Verdict]:
    """Returns figures of all candidates and the verdict on `converted`.

    While it is uncertain, as many samples again as there are already are drawn, at most the settings' `rounds` times.
    """
    tally = bench.tally(adapter, candidates, examples=examples)
    for number in range(bench.score_settings.rounds + 1):
        card = bench.card(adapter, tally, fingerprints=fingerprints, examples=examples)
        verdict = judge(card, gate)
        if verdict.outcome != "uncertain" or number == bench.score_settings.rounds:
            return card, verdict
        probe = further(bench.settings, number)
        tally = tally.with_more(bench.tally(adapter, candidates, examples=examples, settings=probe))
    raise AssertionError("the last round returns")


def further(settings: ProbeSettings, number: int) -> ProbeSettings:
    """Returns the probe of a further round, from 0: as many samples as all rounds before it had together."""
    seed = settings.seed + (number + 1) * _ROUNDS_APART
    return replace(settings, samples=settings.samples << number, seed=seed)
