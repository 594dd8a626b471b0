"""sample_loss: how well the conversion predicts, token by token, what source+adapter wrote itself.

(loss target - loss target+converted) / (loss target - loss source+adapter), losses in nats of the very tokens that
were written: 1 predicts them as well as their author does, 0 as the target does without an adapter, below 0 worse.
Where divergence_gain weighs every token that might have followed, this takes the one that did, as a training loss.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lorax.probe_look import TOKENS
from lorax.scorer import ADAPTED, TARGET, Anchors, Scorer
from lorax.surprise import gains_at_home, share, surprise


def _terms(anchors: Anchors, candidate: Tensor) -> Tensor:
    tokens = anchors[TOKENS]
    plain = surprise(anchors[TARGET], tokens)
    return torch.stack([plain - surprise(candidate, tokens), plain - surprise(anchors[ADAPTED], tokens)], dim=1)


SCORER = Scorer(
    name="sample_loss",
    summary="share of the loss on texts of source+adapter that the conversion takes off, up to their author's own",
    reference="own",
    view="own-samples",
    higher_is_better=True,
    terms=_terms,
    figure=share,
    kinds=("language",),
    defined=gains_at_home,
)
