"""subspace_agreement: how far the conversion's updates use the directions that the adapter's do, above chance.

For row and column spaces the overlap ||U_a^T U_c||^2 / r of LoRA-X (arXiv 2501.16559, eq. 4), less what two random
subspaces of these dimensions have, so that 1 is the same space and 0 is chance. It tells a conversion from another
adapter's only where both bases speak of the same directions: a lineage. Signs and strengths it does not see, and a
conversion between strangers has to score low.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lorax.adapter import LowRank, Site
from lorax.linear_algebra import overlap_above_chance
from lorax.weight_scorer import WeightCase, WeightScorer

ENERGY = 0.99
"""Share of an update's squared norm whose directions are looked at: the rest is rounding as often as not."""


def measure(case: WeightCase) -> float | None:
    """Returns the mean over both spaces of all sites of equal shape, weighted by the adapter's squared norms.

    None where no site of the conversion has the shape of its source, or all updates fill their spaces.
    """
    if not all(map(math.isfinite, case.after.values())):
        return math.nan
    weighted = [
        (case.before[origin], overlap)
        for home, origin in case.homes.items()
        if _comparable(case, home, origin)
        for overlap in _overlaps(case.adapter[origin], case.converted[home])
    ]
    total = sum(weight for weight, _ in weighted)
    return sum(weight * overlap for weight, overlap in weighted) / total if total else None


def _comparable(case: WeightCase, home: Site, origin: Site) -> bool:
    if not case.before[origin] or not case.after.get(home):
        return False
    first, second = case.adapter[origin], case.converted[home]
    return (first.out_features, first.columns) == (second.out_features, second.columns)


def _overlaps(first: LowRank, second: LowRank) -> list[float]:
    """The overlaps of column and row spaces, but for those that a side fills: they agree whatever it does."""
    pairs = zip(_spaces(first), _spaces(second), strict=True)
    return [overlap_above_chance(*pair) for pair in pairs if all(side.shape[1] < side.shape[0] for side in pair)]


def _spaces(update: LowRank) -> tuple[Tensor, Tensor]:
    """Orthonormal bases (out, k) and (columns, k) of the directions that hold ENERGY, from the factors alone."""
    left, up = torch.linalg.qr(update.up.double())
    right, down = torch.linalg.qr(update.down.double().mT)
    inner, values, outer = torch.linalg.svd(up @ down.mT, full_matrices=False)
    squares = values.square()
    rank = int((squares.cumsum(0) < ENERGY * squares.sum()).sum()) + 1
    return left @ inner[:, :rank], right @ outer[:rank].mT


WEIGHT_SCORER = WeightScorer(
    name="subspace_agreement",
    summary="overlap of the directions that adapter and conversion use, the chance level taken out",
    reference="LoRA-X, arXiv 2501.16559, eq. 4; chance level own",
    higher_is_better=True,
    measure=measure,
)
