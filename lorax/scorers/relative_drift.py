"""relative_drift: how far the conversion moves the target on neutral inputs, in times of what the adapter does at home.

What an adapter does to its own base where it has no business stands for what a native adapter would do to the target.
Far above 1 is damage.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lorax.scorer import ADAPTED, SOURCE, TARGET, Anchors, Scorer


def _terms(anchors: Anchors, candidate: Tensor) -> Tensor:
    divergence = anchors.geometry.divergence
    return torch.stack([divergence(anchors[TARGET], candidate), divergence(anchors[SOURCE], anchors[ADAPTED])], dim=1)


def _figure(sums: Tensor) -> Tensor:
    return sums[..., 0] / sums[..., 1].clamp_min(1e-30)


SCORER = Scorer(
    name="relative_drift",
    summary="drift on neutral inputs, in times of the adapter's own at home",
    reference="own",
    view="neutral",
    higher_is_better=False,
    terms=_terms,
    figure=_figure,
)
