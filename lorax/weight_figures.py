"""The figures of a conversion that need no model to be run: from the weights of both adapters alone."""

from __future__ import annotations

from collections.abc import Mapping

from lorax.adapter import Adapter
from lorax.base_pair import pairing
from lorax.checkpoint import Checkpoint
from lorax.correspondence import Matches
from lorax.lowering import lower_adapter
from lorax.plan import Plan
from lorax.scorer import Figure
from lorax.weight_scorer import WeightCase
from lorax.weight_scorers import WEIGHT_SCORERS


def weight_figures(
    adapter: Adapter,
    converted: Adapter,
    *,
    source: Checkpoint,
    target: Checkpoint,
    matches: Matches | None = None,
    plan: Plan | None = None,
) -> dict[str, Figure]:
    """Returns every weight figure that has a meaning for a conversion, by name; no sampling had a part in them.

    adapter: of the source; converted: of the target. Updates of other algorithms are lowered first, with what that
    loses. plan: that it was made by, for what it had expected, None for one that was refreshed; matches: of the pair,
    otherwise the plan's, otherwise found anew from the weights of both bases. Raises Unsupported("needs-base") for an
    update that depends on a base of which there are no weights.
    """
    if matches is None:
        matches = plan_matches(plan) if plan is not None else pairing(source, target)
    case = WeightCase(
        lower_adapter(adapter, source.weight).adapter.low_rank(),
        lower_adapter(converted, target.weight).adapter.low_rank(),
        matches,
        source.base,
        target.base,
        plan,
    )
    return _measured(case)


def plan_matches(plan: Plan) -> Matches:
    """Returns the correspondence that a plan goes by."""
    return {site.target: site.source if site.source is not None else site.reason for site in plan.sites}


def _measured(case: WeightCase) -> dict[str, Figure]:
    found: Mapping[str, float | None] = {name: scorer.measure(case) for name, scorer in WEIGHT_SCORERS.items()}
    return {name: Figure.exact(value) for name, value in found.items() if value is not None}
