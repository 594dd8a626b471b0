"""How surprised a model is by the tokens that did follow, and what share of one gain another one is."""

from __future__ import annotations

import torch
from torch import Tensor

_BEYOND_NOISE = 3.0
"""Standard errors: nearer to nothing than this, a gain is not divided by."""


def surprise(output: Tensor, tokens: Tensor) -> Tensor:
    """Returns the nats (n,) of tokens (n, 1) under log-probabilities (n, vocabulary): cross entropy, row by row."""
    return -output.gather(1, tokens.to(output.device))[:, 0]


def share(sums: Tensor) -> Tensor:
    """Returns gain by gain at home, of sums (..., 2) of both; finite wherever they are."""
    return sums[..., 0] / sums[..., 1].clamp_min(torch.finfo(torch.float32).eps)


def gains_at_home(sums: Tensor) -> bool:
    """Tells whether sums per sample (samples, 2) hold a gain at home that is positive beyond the noise of sampling."""
    gain = sums[:, 1]
    return len(gain) > 1 and bool(gain.mean() > _BEYOND_NOISE * gain.std() / len(gain) ** 0.5)
