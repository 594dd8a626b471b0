"""What a scorer is, and how a figure gets its interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from lorax.geometry import SQUARED, Geometry

SOURCE, ADAPTED, TARGET = "source", "source+adapter", "target"
RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value with a 95 % bootstrap interval over the samples of a probe; without width where it is exact."""

    value: float
    low: float
    high: float

    @classmethod
    def exact(cls, value: float) -> Figure:
        """Gives a figure that no sampling had a part in."""
        return cls(value, value, value)


class Anchors:
    """What the models show in one look, each (rows, features) float32, by name; run when first asked for.

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


def _always(_sums: Tensor) -> bool:
    return True


@dataclass(frozen=True, slots=True, eq=False)
class Scorer:
    """One figure of a score card.

    view: what it looks at, by name. `terms(anchors, candidate)` gives k sums per row, (rows, k), NaN in no entry for
    outputs that are finite; `figure` turns summed terms (..., k) into the figure (...). Kept apart so that the
    bootstrap only re-adds samples, and that more samples can be added later. kinds: of models that it is made for;
    `defined(sums)`: whether the sums per sample (samples, k) are enough for it to mean anything: it is left out where
    they are not, for every candidate alike.
    """

    name: str
    summary: str
    reference: str
    view: str
    higher_is_better: bool
    terms: Callable[[Anchors, Tensor], Tensor]
    figure: Callable[[Tensor], Tensor]
    kinds: tuple[str, ...] = ("diffusion", "language")
    defined: Callable[[Tensor], bool] = _always


def measure(scorer: Scorer, anchors: Anchors, *, candidate: Tensor, group: Tensor) -> Figure:
    """Returns the figure of what a candidate shows (rows, features), with its interval; see `interval`."""
    return interval(scorer.figure, by_sample(scorer.terms(anchors, candidate), group))


def by_sample(terms: Tensor, group: Tensor) -> Tensor:
    """Returns the sums (samples, k), float64 on the CPU, of terms (rows, k) over rows of equal group (rows,)."""
    terms = terms.double().cpu()
    return torch.zeros(int(group.max()) + 1, terms.shape[1], dtype=torch.float64).index_add_(0, group.cpu(), terms)


def interval(figure: Callable[[Tensor], Tensor], sums: Tensor) -> Figure:
    """Returns a figure of sums per sample (samples, k), with the 2.5 and 97.5 % points of a bootstrap.

    Samples are drawn with replacement: the noise levels of one picture, and the tokens of one text, are not
    independent. Equal numbers of samples are drawn alike, so that figures of one look can be subtracted draw by draw.
    """
    drawn = torch.randint(len(sums), (RESAMPLES, len(sums)), generator=torch.Generator().manual_seed(0))
    spread = figure(sums[drawn].sum(1))
    low, high = torch.quantile(spread, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Figure(float(figure(sums.sum(0))), low, high)
