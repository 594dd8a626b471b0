"""Scores one conversion that somebody has at hand, beside the rivals that it has to beat."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lorax.adapter import Adapter
from lorax.base_model import BaseModel
from lorax.checkpoint import Checkpoint
from lorax.convert import convert_adapters
from lorax.errors import Unsupported
from lorax.gate import GateSettings, Verdict
from lorax.judging import Asked, score_and_judge
from lorax.lowering import lower_adapter
from lorax.plan import Plan
from lorax.prepare import prepare_plan
from lorax.probe import ProbeSettings
from lorax.read import AdapterFiles, read_adapter
from lorax.score import ScoreBench
from lorax.score_card import CONVERTED, ScoreCard
from lorax.scorer import Figure
from lorax.weight_figures import plan_matches, weight_figures
from tasks.device import device
from tasks.harness import harness_figures, with_harness
from tasks.planning import CONTROLS


@dataclass(frozen=True, slots=True, eq=False)
class Conversion:
    """An adapter of the source, what is said to be its conversion, and plans of the rivals, by name."""

    adapter: Adapter
    converted: Adapter
    source: Checkpoint
    target: Checkpoint
    plans: Mapping[str, Plan]


def read_parts(files: Sequence[AdapterFiles], base: BaseModel) -> Adapter:
    """Returns the adapter of a base in one file, or in folders of peft's with a component each; raises as read_adapter.

    Of several parts the first says what is said once: dialect, words, hash.
    """
    first, *more = [read_adapter(each, candidates=[base], labels=(base.name,)) for each in files]
    updates, vectors = dict(first.updates), dict(first.vectors)
    for part in more:
        updates |= part.updates
        vectors |= part.vectors
    return dataclasses.replace(first, updates=updates, vectors=vectors) if more else first


def rival_plans(source: Checkpoint, target: Checkpoint) -> dict[str, Plan]:
    """Returns plans of the controls that a score stands beside. They go by shapes alone: no model is run."""
    nothing = ProbeSettings(prompts=())
    return {
        name: prepare_plan(source, target, method=name, settings={}, probe=nothing, device=device())
        for name in CONTROLS
    }


def figures_of_weights(given: Conversion) -> dict[str, Figure]:
    """Returns the figures that need no model to be run, by name."""
    matches = plan_matches(next(iter(given.plans.values())))
    return weight_figures(given.adapter, given.converted, source=given.source, target=given.target, matches=matches)


def score_conversion(
    given: Conversion, bench: ScoreBench, gate: GateSettings, *, weights: Mapping[str, Figure]
) -> tuple[ScoreCard, Verdict]:
    """Returns the figures of a conversion and its rivals, and the verdict; a rival without a common site is missing.

    weights: figures of the conversion that need no model, which the gate may look at as well. Tasks of
    lm-evaluation-harness are asked where the bench's settings name some.
    """
    lowered = lower_adapter(given.adapter, given.source.weight).adapter
    candidates = {CONVERTED: given.converted, **_rivals(given, lowered)}
    fingerprints = (given.source.base.fingerprint, given.target.base.fingerprint)
    answered = harness_figures(bench, given.adapter, {CONVERTED: given.converted})
    exact = {**weights, **answered.get(CONVERTED, {})}
    card, verdict = score_and_judge(bench, Asked(given.adapter, candidates, (), fingerprints, exact), gate)
    return with_harness(card, answered), verdict


def _rivals(given: Conversion, lowered: Adapter) -> dict[str, Adapter]:
    found = {}
    for name, plan in given.plans.items():
        (result,) = convert_adapters(plan, [lowered], target=given.target.base)
        if not isinstance(result, Unsupported):
            found[name] = result.adapter
    return found
