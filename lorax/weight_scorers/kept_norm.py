"""kept_norm: how long the conversion is, against the adapter, at the sites that correspond.

1 is what a copy has. Far above 1 an adapter is too strong, whatever it does; far below 1 it does little. In between it
tells nothing: methods that shrink by half may keep the whole effect, and a sign that was flipped keeps every norm.
"""

from __future__ import annotations

import math

from lorax.weight_scorer import WeightCase, WeightScorer


def measure(case: WeightCase) -> float | None:
    """Returns ||conversion|| / ||adapter|| over all sites that have a home; None where none has."""
    before = sum(case.before[origin] for origin in case.homes.values())
    after = sum(case.after.get(home, 0.0) for home in case.homes)
    return math.sqrt(after / before) if before else None


WEIGHT_SCORER = WeightScorer(
    name="kept_norm",
    summary="norm of the conversion over that of the adapter, at the sites that correspond",
    reference="own",
    higher_is_better=True,
    measure=measure,
)
