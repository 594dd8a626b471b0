"""divergence: by how many nats a token the conversion's predictions are off from those of source+adapter.

The mean of KL(source+adapter || target+converted) over what source+adapter wrote itself. Nothing is subtracted and
nothing divided: beside the same figure of `zero` it says how far apart the two bases are to begin with.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lorax.scorer import ADAPTED, Anchors, Scorer


def _terms(anchors: Anchors, candidate: Tensor) -> Tensor:
    off = anchors.geometry.divergence(anchors[ADAPTED], candidate)
    return torch.stack([off, torch.ones_like(off)], dim=1)


def _figure(sums: Tensor) -> Tensor:
    return sums[..., 0] / sums[..., 1]


SCORER = Scorer(
    name="divergence",
    summary="divergence of the conversion's predictions from those of source+adapter, nats per token",
    reference="Kullback and Leibler 1951",
    view="own-samples",
    higher_is_better=False,
    terms=_terms,
    figure=_figure,
    kinds=("language",),
)
