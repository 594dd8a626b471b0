"""missing: the part of the adapter that has a home in the target, and that the conversion does not write.

0 for a conversion that is complete. A method may leave out sites on purpose, where it expects harm: what it left out
is missing all the same.
"""

from __future__ import annotations

from lorax.weight_scorer import WeightCase, WeightScorer

_LEAST = 1e-3
"""An update of a smaller share of the norm that it had at home counts as not written."""


def measure(case: WeightCase) -> float | None:
    """Returns the share of the squared norm at sites that have a home; None where none has."""
    before = sum(case.before[origin] for origin in case.homes.values())
    if not before:
        return None
    lost = sum(
        case.before[origin]
        for home, origin in case.homes.items()
        if case.after.get(home, 0.0) <= _LEAST**2 * case.before[origin]
    )
    return lost / before


WEIGHT_SCORER = WeightScorer(
    name="missing",
    summary="share of the adapter's squared norm that has a home in the target, but was not written there",
    reference="own",
    higher_is_better=False,
    measure=measure,
)
