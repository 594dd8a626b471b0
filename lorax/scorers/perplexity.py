"""perplexity: of the target with the conversion, on the file that the migration names.

exp of the mean loss in nats per token: among how many tokens, as it were, the model still hesitates. The figure of
`zero` is that of the target without an adapter.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lorax.scorer import Anchors, Scorer


def _terms(_anchors: Anchors, candidate: Tensor) -> Tensor:
    return torch.cat([-candidate, torch.ones_like(candidate)], dim=1)


def _figure(sums: Tensor) -> Tensor:
    return (sums[..., 0] / sums[..., 1]).exp()


SCORER = Scorer(
    name="perplexity",
    summary="perplexity of the target with the conversion on the file `predict`",
    reference="Jelinek et al. 1977",
    view="text-file",
    higher_is_better=False,
    terms=_terms,
    figure=_figure,
    kinds=("language",),
)
