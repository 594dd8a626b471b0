"""CLIP written from its paper under the names that OpenAI and open_clip save: the oracle of what reads those names."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEAD = 64
"""Width of an attention head."""


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    def __init__(self, width: int, *, heads: int, activation: Callable[[Tensor], Tensor], causal: bool) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict([("c_fc", nn.Linear(width, 2 * width)), ("c_proj", nn.Linear(2 * width, width))])
        )
        self._activation, self._causal = activation, causal

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1]) if self._causal else None
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp.c_proj(self._activation(self.mlp.c_fc(self.ln_2(x))))


class Stack(nn.Module):
    def __init__(self, width: int, *, layers: int, **block: object) -> None:
        super().__init__()
        self.resblocks = nn.Sequential(*(Block(width, **block) for _ in range(layers)))  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.resblocks(x)
        return found


class Vision(nn.Module):
    """The vision tower; `proj` is None where something else stands in for it."""

    def __init__(
        self, width: int, out: int | None, *, side: int, patch: int, heads: int, activation: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn((side // patch) ** 2 + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = Stack(width, layers=2, heads=heads, activation=activation, causal=False)
        self.proj = None if out is None else nn.Parameter(torch.randn(width, out))

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.conv1(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(pixels), 1, -1)
        x = self.transformer(self.ln_pre(torch.cat([first, patches], dim=1) + self.positional_embedding))
        seen: Tensor = self.ln_post(x[:, 0])
        return seen if self.proj is None else seen @ self.proj


class StyleModel(nn.Module):
    """What a CSD checkpoint holds."""

    def __init__(self, *, side: int = 16, patch: int = 8) -> None:
        super().__init__()
        self.backbone = Vision(2 * HEAD, None, side=side, patch=patch, heads=2, activation=quick_gelu)
        self.last_layer_style = nn.Parameter(torch.randn(2 * HEAD, 24))
        self.last_layer_content = nn.Parameter(torch.randn(2 * HEAD, 24))

    def forward(self, pixels: Tensor) -> Tensor:
        return F.normalize(self.backbone(pixels) @ self.last_layer_style)


class OpenClip(nn.Module):
    """What an open_clip checkpoint holds."""

    def __init__(self, *, words: int, length: int, side: int = 16, patch: int = 8, width: int = 32) -> None:
        super().__init__()
        self.visual = Vision(width, 24, side=side, patch=patch, heads=2, activation=F.gelu)
        self.transformer = Stack(width, layers=2, heads=2, activation=F.gelu, causal=True)
        self.token_embedding = nn.Embedding(words, width)
        self.positional_embedding = nn.Parameter(torch.randn(length, width))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, 24))
        self.logit_scale = nn.Parameter(torch.tensor(3.0))

    def preference(self, pixels: Tensor, tokens: Tensor, ends: Tensor) -> Tensor:
        """Returns exp(logit_scale)·cosine for prepared pixels, tokens (n, length) and where each text ends (n,)."""
        read = self.ln_final(self.transformer(self.token_embedding(tokens) + self.positional_embedding))
        said = read[torch.arange(len(tokens)), ends] @ self.text_projection
        return self.logit_scale.exp() * F.cosine_similarity(self.visual(pixels), said)
