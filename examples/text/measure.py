"""Losses on the held-out samples: one fixed figure per model and text."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.text.models import CONTEXT

AT_ONCE = 16


def rows(content: bytes) -> Tensor:
    """Gives bytes as tokens, int64 (n // 256, 256), without specials; what does not fill a row is left out."""
    count = len(content) // CONTEXT
    return torch.frombuffer(bytearray(content[: count * CONTEXT]), dtype=torch.uint8).view(count, CONTEXT).long()


@torch.no_grad()
def loss(model: nn.Module, content: bytes) -> float:
    """Gives nats per byte: each row of 256 bytes on its own, the first byte of each given, float32."""
    tokens = rows(content)
    total = 0.0
    for batch in torch.split(tokens, AT_ONCE):
        logits = model(input_ids=batch, use_cache=False).logits
        total += F.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten(), reduction="sum").item()
    return total / (len(tokens) * (CONTEXT - 1))
