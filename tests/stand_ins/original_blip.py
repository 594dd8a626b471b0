"""ImageReward written from its paper and BLIP's, under the names of its checkpoint: the oracle of what reads those."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEAD = 64
"""Width of an attention head."""
MEAN, SPREAD = 0.16717362830052426, 1.0333394966054072


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Returns attention in heads of 64; mask (n, keys): what may be looked at."""
    parts = [each.unflatten(-1, (-1, HEAD)).transpose(1, 2) for each in (query, key, value)]
    seen = None if mask is None else mask.bool()[:, None, None]
    return F.scaled_dot_product_attention(*parts, attn_mask=seen).transpose(1, 2).flatten(2)


class VisionAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.proj(attend(*self.qkv(x).chunk(3, dim=-1)))
        return found


class VisionBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = VisionAttention(width)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 2 * width), "fc2": nn.Linear(2 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        hidden: Tensor = self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))
        return x + hidden


class VisionEncoder(nn.Module):
    def __init__(self, width: int, *, side: int, patch: int) -> None:
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, stride=patch)})
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, (side // patch) ** 2 + 1, width))
        self.blocks = nn.Sequential(*(VisionBlock(width) for _ in range(2)))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embed["proj"](pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(pixels), -1, -1), patches], dim=1) + self.pos_embed
        found: Tensor = self.norm(self.blocks(x))
        return found


class Output(nn.Module):
    """A linear layer, what went in before, a norm."""

    def __init__(self, inside: int, width: int) -> None:
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(inside, width), nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        found: Tensor = self.LayerNorm(self.dense(x) + before)
        return found


class TextAttention(nn.Module):
    def __init__(self, width: int, looked_at: int) -> None:
        super().__init__()
        sides = {"query": width, "key": looked_at, "value": looked_at}
        self.self = nn.ModuleDict({name: nn.Linear(side, width) for name, side in sides.items()})
        self.output = Output(width, width)

    def forward(self, x: Tensor, at: Tensor, mask: Tensor | None) -> Tensor:
        found = attend(self.self["query"](x), self.self["key"](at), self.self["value"](at), mask)
        return self.output(found, x)  # type: ignore[no-any-return]


class TextLayer(nn.Module):
    def __init__(self, width: int, looked_at: int) -> None:
        super().__init__()
        self.attention, self.crossattention = TextAttention(width, width), TextAttention(width, looked_at)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, 2 * width)})
        self.output = Output(2 * width, width)

    def forward(self, x: Tensor, seen: Tensor, mask: Tensor) -> Tensor:
        x = self.crossattention(self.attention(x, x, mask), seen, None)
        return self.output(F.gelu(self.intermediate["dense"](x)), x)  # type: ignore[no-any-return]


class TextEncoder(nn.Module):
    def __init__(self, width: int, looked_at: int, *, words: int, length: int) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(words, width),
                "position_embeddings": nn.Embedding(length, width),
                "LayerNorm": nn.LayerNorm(width, eps=1e-12),
            }
        )
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(TextLayer(width, looked_at) for _ in range(2))})

    def forward(self, tokens: Tensor, mask: Tensor, seen: Tensor) -> Tensor:
        parts = self.embeddings
        places = torch.arange(tokens.shape[1])
        x: Tensor = parts["LayerNorm"](parts["word_embeddings"](tokens) + parts["position_embeddings"](places))
        for layer in self.encoder["layer"]:  # type: ignore[attr-defined]
            x = layer(x, seen, mask)
        return x


class Head(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        sides = (width, 32, 24, 16, 8, 1)
        linear = [nn.Linear(first, second) for first, second in pairwise(sides)]
        empty = nn.Identity()  # where the original has dropout
        self.layers = nn.Sequential(linear[0], empty, linear[1], empty, linear[2], empty, linear[3], linear[4])


class Reward(nn.Module):
    """What an ImageReward checkpoint holds, besides two projections that it never uses."""

    def __init__(self, *, words: int, side: int = 32, patch: int = 16) -> None:
        super().__init__()
        self.blip = nn.ModuleDict(
            {
                "visual_encoder": VisionEncoder(2 * HEAD, side=side, patch=patch),
                "text_encoder": TextEncoder(HEAD, 2 * HEAD, words=words, length=40),
                "vision_proj": nn.Linear(2 * HEAD, 8),
                "text_proj": nn.Linear(HEAD, 8),
            }
        )
        self.mlp = Head(HEAD)

    def reward(self, pixels: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Returns normalised rewards (n,) for prepared pixels and prompts."""
        read = self.blip["text_encoder"](tokens, mask, self.blip["visual_encoder"](pixels))
        return (self.mlp.layers(read[:, 0])[:, 0] - MEAN) / SPREAD
