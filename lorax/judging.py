"""A verdict that is as certain as the budget allows: where a figure is too vague, more samples are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lorax.adapter import Adapter
from lorax.gate import GateSettings, Verdict, judge
from lorax.probe import ProbeSettings
from lorax.score import ScoreBench
from lorax.score_card import CONVERTED, ScoreCard
from lorax.scorer import Figure
from lorax.tally import Tally
from lorax.views import VIEWS

_ROUNDS_APART = 7919
"""Distance of the seeds of one round of samples and the next; probes use the numbers next to their seed as well."""


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What is to be judged.

    adapter: of the source; candidates: adapters of the target, `converted` among them; examples: prompts that the
    adapter's catalogue shows it with; fingerprints: of both bases; exact: figures of `converted` that no samples are
    needed for.
    """

    adapter: Adapter
    candidates: Mapping[str, Adapter]
    examples: Sequence[str] = ()
    fingerprints: Sequence[str] = ()
    exact: Mapping[str, Figure] = field(default_factory=dict)


def score_and_judge(bench: ScoreBench, asked: Asked, gate: GateSettings) -> tuple[ScoreCard, Verdict]:
    """Returns figures of all candidates and the verdict on `converted`.

    While it is uncertain, as many samples again as there are already are drawn, at most the settings' `rounds` times.
    """
    tally = bench.tally(asked.adapter, asked.candidates, examples=asked.examples)
    rounds = bench.score_settings.rounds
    for number in range(rounds):
        card, verdict = judged(bench, asked, tally, gate)
        if verdict.outcome != "uncertain":
            return card, verdict
        tally = tally.with_more(more(bench, asked, number))
    return judged(bench, asked, tally, gate)


def judged(bench: ScoreBench, asked: Asked, tally: Tally, gate: GateSettings) -> tuple[ScoreCard, Verdict]:
    """Returns the card of what has been seen until now, and the verdict on it."""
    card = bench.card(asked.adapter, tally, fingerprints=asked.fingerprints, examples=asked.examples)
    figures = {**card.figures, CONVERTED: {**card.figures[CONVERTED], **asked.exact}}
    card = replace(card, figures=figures)
    return card, judge(card, gate)


def more(bench: ScoreBench, asked: Asked, number: int) -> Tally:
    """Returns what further samples show, in round `number` from 0; what is the same for every seed is left out."""
    probe = further(bench.settings, number)
    views = [name for name, view in VIEWS.items() if not view.once]
    return bench.tally(asked.adapter, asked.candidates, examples=asked.examples, settings=probe, views=views)


def further(settings: ProbeSettings, number: int) -> ProbeSettings:
    """Returns the probe of a further round, from 0: as many samples as all rounds before it had together."""
    seed = settings.seed + (number + 1) * _ROUNDS_APART
    return replace(settings, samples=settings.samples << number, seed=seed)
