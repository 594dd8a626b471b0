"""drift: how far the conversion moves the target on neutral prompts, relative to its own output. Small is good.

For language models: the divergence KL(target || target+converted) over the entropy of what the target says.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lorax.scorer import TARGET, Anchors, Scorer


def _terms(anchors: Anchors, candidate: Tensor) -> Tensor:
    plain = anchors[TARGET]
    return torch.stack([anchors.geometry.divergence(plain, candidate), anchors.geometry.size(plain)], dim=1)


def _figure(sums: Tensor) -> Tensor:
    return sums[..., 0] / sums[..., 1].clamp_min(1e-30)


SCORER = Scorer(
    name="drift",
    summary="squared change of the target's output on neutral prompts, relative",
    reference="own",
    view="neutral",
    higher_is_better=False,
    terms=_terms,
    figure=_figure,
)
