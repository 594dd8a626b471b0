"""What a scorer is, and how a figure gets its interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from lorax.geometry import SQUARED, Geometry

SOURCE, ADAPTED, TARGET = "source", "source+adapter", "target"


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value with a 95 % bootstrap interval over the probe's images."""

    value: float
    low: float
    high: float


class Anchors:
    """Outputs of the models on one probe, each (rows, features) float32, by name; run when first asked for.

    geometry: says how outputs of this kind of model are held against each other.
    """

    def __init__(self, runs: Mapping[str, Callable[[], Tensor]], geometry: Geometry = SQUARED) -> None:
        self.geometry = geometry
        self._runs = {name: cache(run) for name, run in runs.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self._runs[name]()

    def effect_at_home(self) -> Tensor:
        """Returns what the adapter changes in its own base, (rows, features)."""
        return self[ADAPTED] - self[SOURCE]

    def effect_of(self, candidate: Tensor) -> Tensor:
        """Returns what a candidate changes in the target base, (rows, features)."""
        return candidate - self[TARGET]

    def product(self, first: Tensor, second: Tensor) -> Tensor:
        """Returns the inner product (rows,) of two changes of output, seen from what source+adapter says."""
        return self.geometry.inner(self[ADAPTED], first, second)


@dataclass(frozen=True, slots=True, eq=False)
class Scorer:
    """One figure of a score card.

    `terms(anchors, candidate)` gives k sums per row, (rows, k); `figure` turns summed terms (..., k) into the figure
    (...). Kept apart so that the bootstrap only re-adds rows.
    """

    name: str
    summary: str
    reference: str
    probe: str
    higher_is_better: bool
    terms: Callable[[Anchors, Tensor], Tensor]
    figure: Callable[[Tensor], Tensor]


def measure(scorer: Scorer, anchors: Anchors, *, candidate: Tensor, group: Tensor, resamples: int = 1000) -> Figure:
    """Returns the figure of a candidate's outputs (rows, features), with the 2.5 and 97.5 % points of a bootstrap.

    Images (rows of equal `group`) are drawn with replacement, since the noise levels of one image are not independent.
    """
    terms = scorer.terms(anchors, candidate).double().cpu()
    groups = int(group.max()) + 1
    per_image = torch.zeros(groups, terms.shape[1], dtype=torch.float64).index_add_(0, group.cpu(), terms)
    drawn = torch.randint(groups, (resamples, groups), generator=torch.Generator().manual_seed(0))
    spread = scorer.figure(per_image[drawn].sum(1))
    low, high = torch.quantile(spread, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Figure(float(scorer.figure(per_image.sum(0))), low, high)
