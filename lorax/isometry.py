"""The isometry between two sets of rows that one probe gave rise to, which more than one method turns to."""

from __future__ import annotations

import torch
from torch import Tensor

from lorax.linear_algebra import polar_factor


def isometry(cross: Tensor, silence: float = 1e-6) -> Tensor:
    """Returns the (partial) isometry nearest to X_t^T X_s (n, m), float64; to the identity where that says nothing.

    silence: how much of the identity is added where widths are equal, relative to the root mean square of the singular
    values; 0 drops the directions that were not heard.
    """
    cross = cross.double()
    if cross.shape[0] == cross.shape[1]:
        # The Frobenius norm over sqrt(width) is the root mean square of the singular values.
        pull = silence * (float(cross.norm()) / cross.shape[0] ** 0.5 or 1.0)
        cross = cross + pull * torch.eye(cross.shape[0], dtype=torch.float64, device=cross.device)
    return polar_factor(cross)
