"""diversity: how different the conversion's pictures are from each other, relative to those of source+adapter.

spread = mean ||x||^2 - ||mean x||^2, half the mean squared distance of two points drawn at random; the figure is
spread(converted) / spread(source+adapter): 1 is as diverse as on the old base, near 0 a base that now draws one picture
only. Both means are sums over pictures, so the bootstrap only re-adds them. Points of more than 64 numbers are seen
through one fixed random projection to 64 (Johnson and Lindenstrauss, 1984), the same for both: sums stay small, and
distances stay what they were within some percent.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from lorax.scorer import ADAPTED, Anchors, Scorer

_WIDTH = 64
_SMALLEST = 1e-9
"""Spread under which pictures are one picture, rounding apart."""


def _terms(anchors: Anchors, candidate: Tensor) -> Tensor:
    points = [_narrow(seen.double()) for seen in (candidate, anchors[ADAPTED])]
    sizes = [each.square().sum(1, keepdim=True) for each in points]
    return torch.cat([torch.ones_like(sizes[0]), *sizes, *points], dim=1)


def _figure(sums: Tensor) -> Tensor:
    means = sums[..., 1:] / sums[..., :1]
    first, second = means[..., 2:].chunk(2, dim=-1)
    return _spread(means[..., 0], first) / _spread(means[..., 1], second)


def _spread(size: Tensor, centre: Tensor) -> Tensor:
    return (size - centre.square().sum(-1)).clamp_min(_SMALLEST)


def _several(sums: Tensor) -> bool:
    return len(sums) > 1


def _narrow(points: Tensor) -> Tensor:
    width = points.shape[1]
    return points if width <= _WIDTH else points @ _projection(width).to(points)


@lru_cache(maxsize=8)
def _projection(width: int) -> Tensor:
    return torch.randn(width, _WIDTH, generator=torch.Generator().manual_seed(0)) / math.sqrt(_WIDTH)


SCORER = Scorer(
    name="diversity",
    summary="spread of the conversion's pictures, relative to that of source+adapter's",
    reference="own",
    view="pictures",
    higher_is_better=True,
    terms=_terms,
    figure=_figure,
    kinds=("diffusion",),
    defined=_several,
)
