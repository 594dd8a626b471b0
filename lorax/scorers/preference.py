"""preference: how much more people would like the conversion's pictures than source+adapter's, for equal prompts.

Mean preference of the conversion's minus that of source+adapter's, in the encoder's own unit (HPS v2: Wu et al., arXiv
2306.09341; ImageReward: Xu et al., arXiv 2304.05977). A new base may well draw nicer pictures: above 0 is no fault.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lorax.scorer import ADAPTED, Anchors, Scorer


def _terms(anchors: Anchors, candidate: Tensor) -> Tensor:
    more = (candidate - anchors[ADAPTED])[:, 0]
    return torch.stack([more, torch.ones_like(more)], dim=1)


def _figure(sums: Tensor) -> Tensor:
    return sums[..., 0] / sums[..., 1]


SCORER = Scorer(
    name="preference",
    summary="preference for pictures given their prompts, as a difference to source+adapter's",
    reference="arXiv 2306.09341, arXiv 2304.05977",
    view="pictures-taste",
    higher_is_better=True,
    terms=_terms,
    figure=_figure,
    kinds=("diffusion",),
)
