"""LTX-Video: transformer blocks with self- and cross-attention over video."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from lorax.base_model import BaseModel, Family
from lorax.inventories.known import as_it_is, holds_class, known_base, present
from lorax.inventories.transformer import feed_forward, heads_norm, projections, two_layers
from lorax.inventories.translation import renamed
from lorax.inventory import Parameter, Parameters, linear
from lorax.naming import own_names

NAME = "ltx-video"
_LATENT, _TEXT = 128, 4096


@dataclass(frozen=True, slots=True)
class _Transformer:
    """Describes an LTXVideoTransformer3DModel."""

    layers: int
    width: int

    def parameters(self) -> Parameters:
        """Lists all parameters; modulation tables belong to no module."""
        width = self.width
        yield Parameter("scale_shift_table", (2, width))
        yield from linear("proj_in", width, _LATENT)
        yield from two_layers("time_embed.emb.timestep_embedder", width, 256)
        yield from linear("time_embed.linear", 6 * width, width)
        yield from two_layers("caption_projection", width, _TEXT)
        for number in range(self.layers):
            path = f"transformer_blocks.{number}"
            yield Parameter(f"{path}.scale_shift_table", (6, width))
            for attention in ("attn1", "attn2"):
                yield from projections(f"{path}.{attention}", width)
                yield from heads_norm(f"{path}.{attention}", width)
            yield from feed_forward(f"{path}.ff", width, 4 * width)
        yield from linear("proj_out", _LATENT, width)


_ORIGINAL = (
    (re.compile(r"^proj_in$"), "patchify_proj"),
    (re.compile(r"^time_embed\."), "adaln_single."),
    (re.compile(r"\.norm_([qk])$"), r".\1_norm"),
)


def _original_name(path: str) -> str:
    for pattern, other in _ORIGINAL:
        path = pattern.sub(other, path)
    return path


_TRANSFORMERS = {"ltx-video-2b": _Transformer(28, 2048), "ltx-video-13b": _Transformer(48, 4096)}

_LABELS = {
    "ltx-video-2b": (
        "Lightricks/LTX-Video", "Lightricks/LTX-Video-0.9.1", "Lightricks/LTX-Video-0.9.5", "ltx-video-2b-v0.9",
        "ltx-video-2b-v0.9.1", "ltx-video-2b-v0.9.5", "ltxv-2b-0.9.6-dev", "ltxv-2b-0.9.6-distilled",
        "ltxv-2b-0.9.8-distilled",
    ),
    "ltx-video-13b": (
        "Lightricks/LTX-Video-0.9.7-dev", "Lightricks/LTX-Video-0.9.7-distilled",
        "Lightricks/LTX-Video-0.9.8-13B-distilled", "ltxv-13b-0.9.7-dev", "ltxv-13b-0.9.7-distilled",
        "ltxv-13b-0.9.8-dev", "ltxv-13b-0.9.8-distilled",
    ),
}  # fmt: skip


@cache
def _versions() -> tuple[BaseModel, ...]:
    return tuple(
        known_base(name, family=NAME, labels=_LABELS[name], components={"transformer": transformer.parameters()})
        for name, transformer in _TRANSFORMERS.items()
    )


FAMILY = Family(
    name=NAME,
    summary="LTX-Video: transformer blocks over video",
    versions=_versions,
    recognises=holds_class("transformer", "LTXVideoTransformer3DModel"),
    components=present("transformer"),
    canonical=as_it_is,
    spoken=dict.fromkeys(_TRANSFORMERS, ("ltx", "ltx-video")),
    parameters={
        "ltx-video-2b": 1_923_385_472,
        "ltx-video-13b": 13_042_569_344,
    },
    labels=("LTXV",),
    look_alikes=("LTXV2", "LTXV 2.3"),
    namings={"own": own_names, "original": renamed("transformer", _original_name)},
    flat_prefixes={"transformer": ("lora_unet_", "lora_transformer_")},
)
