"""prompt_agreement: whether the conversion's pictures fit their prompts as well as source+adapter's do.

Mean cos(converted, prompt) - mean cos(source+adapter, prompt): CLIP-T (Hessel et al., arXiv 2104.08718) as a
difference, 0 being as good as on the old base. A ratio would not do: cosines of SigLIP lie around 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lorax.scorer import ADAPTED, Anchors, Scorer


def _terms(anchors: Anchors, candidate: Tensor) -> Tensor:
    prompts = anchors["prompts"]
    more = ((candidate - anchors[ADAPTED]) * prompts).sum(1)
    return torch.stack([more, torch.ones_like(more)], dim=1)


def _figure(sums: Tensor) -> Tensor:
    return sums[..., 0] / sums[..., 1]


SCORER = Scorer(
    name="prompt_agreement",
    summary="agreement of pictures with their prompts, as a difference to source+adapter's",
    reference="arXiv 2104.08718",
    view="pictures-words",
    higher_is_better=True,
    terms=_terms,
    figure=_figure,
    kinds=("diffusion",),
)
