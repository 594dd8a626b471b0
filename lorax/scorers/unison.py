"""unison: do the updates of a conversion pull the same way, each by itself, as much as those of the adapter do at home.

u = sum of sqrt(h_i) over h_i > 0 / sum of sqrt(|h_i|), where h_i is the rate at which the divergence from
source+adapter falls as the update of site i is faded in at the plain model. The figure is u of the conversion in the
target over u of the adapter in the source: 1 as at home. Where updates lie at sites they do not belong to, u is about
.5, even if their sum happens to help; the root keeps a few strong sites from hiding the others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lorax.scorer import ADAPTED, Anchors, Scorer


def _terms(anchors: Anchors, candidate: Tensor) -> Tensor:
    home = anchors[ADAPTED]
    # Two columns say where the second block begins, whatever is summed: 1, and the number of sites in the first.
    ones = torch.ones(len(candidate), 1, dtype=candidate.dtype)
    return torch.cat([ones, ones * candidate.shape[1], candidate, home], dim=1)


def _figure(sums: Tensor) -> Tensor:
    first = sums.reshape(-1, sums.shape[-1])[0]
    end = 2 + round(float(first[1] / first[0]))
    return _unison(sums[..., 2:end]) / _unison(sums[..., end:]).clamp_min(1e-30)


def _unison(slopes: Tensor) -> Tensor:
    return slopes.clamp_min(0).sqrt().sum(-1) / slopes.abs().sqrt().sum(-1).clamp_min(1e-30)


def _defined(sums: Tensor) -> bool:
    return bool(sums[0, 1] > 0)


SCORER = Scorer(
    name="unison",
    summary="how far the sites' first-order effects point the right way, over how far they do at home",
    reference="own",
    view="first-steps",
    higher_is_better=True,
    terms=_terms,
    figure=_figure,
    defined=_defined,
)
