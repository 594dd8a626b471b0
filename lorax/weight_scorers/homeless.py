"""homeless: the part of the adapter that no site of the target stands for, so that no plan can carry it."""

from __future__ import annotations

from lorax.weight_scorer import WeightCase, WeightScorer


def measure(case: WeightCase) -> float | None:
    """Returns the share of the adapter's squared norm; None for an adapter of zeros."""
    total = sum(case.before.values())
    housed = sum(case.before[origin] for origin in case.homes.values())
    return max(0.0, 1 - housed / total) if total else None


WEIGHT_SCORER = WeightScorer(
    name="homeless",
    summary="share of the adapter's squared norm that has no home in the target",
    reference="own",
    higher_is_better=False,
    measure=measure,
)
