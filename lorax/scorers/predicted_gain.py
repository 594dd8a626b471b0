"""predicted_gain: what the conversion gains on the migration's file, as a share of what the adapter gains at home.

(loss target - loss target+converted) / (loss source - loss source+adapter): 1 is the same gain, 0 none, below 0 a
loss. An adapter that gains nothing on the file at home has nothing to share: the figure is left out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lorax.scorer import ADAPTED, SOURCE, TARGET, Anchors, Scorer
from lorax.surprise import gains_at_home, share


def _terms(anchors: Anchors, candidate: Tensor) -> Tensor:
    return torch.cat([candidate - anchors[TARGET], anchors[ADAPTED] - anchors[SOURCE]], dim=1)


SCORER = Scorer(
    name="predicted_gain",
    summary="gain of the conversion on the file `predict`, as a share of the adapter's gain at home",
    reference="own",
    view="text-file",
    higher_is_better=True,
    terms=_terms,
    figure=share,
    kinds=("language",),
    defined=gains_at_home,
)
