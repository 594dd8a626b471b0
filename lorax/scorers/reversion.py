"""reversion: how much of the way from the new base back to the old one the conversion goes on neutral inputs.

The component of the change of the target's output along (source - target), as a share of that distance: 0 leaves what
the new base has gained over the old one, 1 has turned it back.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lorax.scorer import SOURCE, TARGET, Anchors, Scorer


def _terms(anchors: Anchors, candidate: Tensor) -> Tensor:
    plain = anchors[TARGET]
    back, moved = anchors[SOURCE] - plain, candidate - plain
    inner = anchors.geometry.inner
    return torch.stack([inner(plain, moved, back), inner(plain, back, back)], dim=1)


def _figure(sums: Tensor) -> Tensor:
    return sums[..., 0] / sums[..., 1].clamp_min(1e-30)


SCORER = Scorer(
    name="reversion",
    summary="share of the way back from the target base to the source base that the conversion goes",
    reference="own",
    view="neutral",
    higher_is_better=False,
    terms=_terms,
    figure=_figure,
)
