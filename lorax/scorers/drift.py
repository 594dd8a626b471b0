"""drift: how far the conversion moves the target on neutral prompts, relative to its own output. Small is good."""

from __future__ import annotations

import torch
from torch import Tensor

from lorax.scorer import TARGET, Anchors, Scorer, squared


def _terms(anchors: Anchors, candidate: Tensor) -> Tensor:
    return torch.stack([squared(anchors.effect_of(candidate)), squared(anchors[TARGET])], dim=1)


def _figure(sums: Tensor) -> Tensor:
    return sums[..., 0] / sums[..., 1].clamp_min(1e-30)


SCORER = Scorer(
    name="drift",
    summary="squared change of the target's output on neutral prompts, relative",
    reference="own",
    probe="neutral",
    higher_is_better=False,
    terms=_terms,
    figure=_figure,
)
