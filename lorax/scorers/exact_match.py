"""exact_match: how many of the migration's questions the conversion answers word for word as it should.

That is as the file says, or, where it gives no answer, as source+adapter answers. The figure of `zero` is that of the
target without an adapter.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lorax.answers import ANSWERS
from lorax.scorer import ADAPTED, Anchors, Scorer


def _terms(anchors: Anchors, candidate: Tensor) -> Tensor:
    given = anchors[ANSWERS]
    open_ones = given[:, :1] < 0
    wanted = torch.where(open_ones, anchors[ADAPTED], given) if bool(open_ones.any()) else given
    equal = (candidate == wanted).all(1).float()
    return torch.stack([equal, torch.ones_like(equal)], dim=1)


def _figure(sums: Tensor) -> Tensor:
    return sums[..., 0] / sums[..., 1]


SCORER = Scorer(
    name="exact_match",
    summary="share of the questions of the file `questions` that are answered word for word",
    reference="own",
    view="questions",
    higher_is_better=True,
    terms=_terms,
    figure=_figure,
    kinds=("language",),
)
