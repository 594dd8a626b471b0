"""effect_cosine: does the target's output change in the direction in which the adapter changes its own base's."""

from __future__ import annotations

import torch
from torch import Tensor

from lorax.scorer import Anchors, Scorer


def _terms(anchors: Anchors, candidate: Tensor) -> Tensor:
    home, away = anchors.effect_at_home(), anchors.effect_of(candidate)
    return torch.stack([anchors.product(home, away), anchors.product(home, home), anchors.product(away, away)], dim=1)


def _figure(sums: Tensor) -> Tensor:
    return sums[..., 0] / (sums[..., 1] * sums[..., 2]).sqrt().clamp_min(1e-30)


SCORER = Scorer(
    name="effect_cosine",
    summary="cosine between the change of output at home and in the target",
    reference="own",
    view="own-samples",
    higher_is_better=True,
    terms=_terms,
    figure=_figure,
)
