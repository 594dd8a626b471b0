"""divergence_gain: how much nearer the conversion brings the target to source+adapter. The leading figure of the gate.

1 - sum ||source+adapter - target+converted||^2 / sum ||source+adapter - target||^2 over a probe that source+adapter
drew itself: 1 would be the very same output, 0 is what doing nothing reaches, below 0 is harm. For Gaussian noise
predictions the squared difference is the divergence KL(source+adapter || target+converted) up to a constant; for
language models the figure is that of the divergences themselves, token by token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lorax.scorer import ADAPTED, TARGET, Anchors, Scorer


def _terms(anchors: Anchors, candidate: Tensor) -> Tensor:
    wanted = anchors[ADAPTED]
    divergence = anchors.geometry.divergence
    return torch.stack([divergence(wanted, candidate), divergence(wanted, anchors[TARGET])], dim=1)


def _figure(sums: Tensor) -> Tensor:
    return 1 - sums[..., 0] / sums[..., 1].clamp_min(1e-30)


SCORER = Scorer(
    name="divergence_gain",
    summary="share of the distance from target to source+adapter that the conversion closes",
    reference="own; signed functional gain as in arXiv 2609.20051",
    view="own-samples",
    higher_is_better=True,
    terms=_terms,
    figure=_figure,
)
