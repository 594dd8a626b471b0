"""effect_gain: how strong the conversion's change of output is along the adapter's own: 1 as strong, below 1 weaker."""

from __future__ import annotations

import torch
from torch import Tensor

from lorax.scorer import Anchors, Scorer


def _terms(anchors: Anchors, candidate: Tensor) -> Tensor:
    home, away = anchors.effect_at_home(), anchors.effect_of(candidate)
    return torch.stack([anchors.product(home, away), anchors.product(home, home)], dim=1)


def _figure(sums: Tensor) -> Tensor:
    return sums[..., 0] / sums[..., 1].clamp_min(1e-30)


SCORER = Scorer(
    name="effect_gain",
    summary="strength of the change of output along the one at home",
    reference="own",
    view="own-samples",
    higher_is_better=True,
    terms=_terms,
    figure=_figure,
)
