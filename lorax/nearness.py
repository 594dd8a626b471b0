"""How much nearer a conversion's pictures are to those of source+adapter than the plain target's: seen as points."""

from __future__ import annotations

import torch
from torch import Tensor

from lorax.scorer import ADAPTED, TARGET, Anchors


def distances(anchors: Anchors, candidate: Tensor) -> Tensor:
    """Returns 1 - cos to the picture of source+adapter (rows, 2): of the candidate's, and of the plain target's.

    Points (rows, d) have length 1; half their squared distance is exact where two pictures are the same one.
    """
    wanted = anchors[ADAPTED]
    away = [(seen - wanted).square().sum(1) / 2 for seen in (candidate, anchors[TARGET])]
    return torch.stack(away, dim=1)


def gain(sums: Tensor) -> Tensor:
    """Returns the share of the distance (..., 2) that is closed: 1 - candidate/target."""
    return 1 - sums[..., 0] / sums[..., 1].clamp_min(1e-30)


def apart(sums: Tensor) -> bool:
    """Tells whether the plain target's pictures differ from source+adapter's at all: else there is no way to close."""
    return bool(sums[:, 1].sum() > 1e-6 * len(sums))
