"""Lumina-Image 2.0: one stack of transformer blocks over text and image, each refined before.

Canonical names are diffusers'; the original code, whose names trainers use, fuses query, key and value.
"""

from __future__ import annotations

from functools import cache

from lorax.base_model import BaseModel, Family
from lorax.inventories.known import as_it_is, holds_class, known_base, present
from lorax.inventories.transformer import heads_norm
from lorax.inventories.translation import Table, Translation
from lorax.inventory import Parameter, Parameters, linear
from lorax.naming import own_names

NAME = "lumina2"
_WIDTH, _HEAD, _KEYS, _TEXT, _INNER, _LATENT = 2304, 96, 768, 2304, 9216, 64
_TIME = 1024
_DEPTH, _REFINER = 26, 2


def _transformer() -> Parameters:
    """Lists the parameters of Lumina2Transformer2DModel."""
    yield from linear("x_embedder", _WIDTH, _LATENT)
    yield from linear("time_caption_embed.timestep_embedder.linear_1", _TIME, 256)
    yield from linear("time_caption_embed.timestep_embedder.linear_2", _TIME, _TIME)
    yield Parameter("time_caption_embed.caption_embedder.0.weight", (_TEXT,))
    yield from linear("time_caption_embed.caption_embedder.1", _WIDTH, _TEXT)
    for number in range(_REFINER):
        yield from _block(f"noise_refiner.{number}", modulated=True)
        yield from _block(f"context_refiner.{number}", modulated=False)
    for number in range(_DEPTH):
        yield from _block(f"layers.{number}", modulated=True)
    yield from linear("norm_out.linear_1", _WIDTH, _TIME)
    yield from linear("norm_out.linear_2", _LATENT, _WIDTH)


def _block(path: str, *, modulated: bool) -> Parameters:
    yield from heads_norm(f"{path}.attn", _HEAD)
    yield from linear(f"{path}.attn.to_q", _WIDTH, _WIDTH, bias=False)
    yield from linear(f"{path}.attn.to_k", _KEYS, _WIDTH, bias=False)
    yield from linear(f"{path}.attn.to_v", _KEYS, _WIDTH, bias=False)
    yield from linear(f"{path}.attn.to_out.0", _WIDTH, _WIDTH, bias=False)
    yield from linear(f"{path}.feed_forward.linear_1", _INNER, _WIDTH, bias=False)
    yield from linear(f"{path}.feed_forward.linear_2", _WIDTH, _INNER, bias=False)
    yield from linear(f"{path}.feed_forward.linear_3", _INNER, _WIDTH, bias=False)
    if modulated:
        yield from linear(f"{path}.norm1.linear", 4 * _WIDTH, _TIME)
    for name in ("norm1.norm" if modulated else "norm1", "ffn_norm1", "norm2", "ffn_norm2"):
        yield Parameter(f"{path}.{name}.weight", (_WIDTH,))


def _names(first_norm: str) -> Table:
    return {
        "adaLN_modulation.1": ("norm1.linear",),
        "attention.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
        "attention.q_norm": ("attn.norm_q",),
        "attention.k_norm": ("attn.norm_k",),
        "attention.out": ("attn.to_out.0",),
        "attention_norm1": (first_norm,),
        "attention_norm2": ("norm2",),
        "feed_forward.w1": ("feed_forward.linear_1",),
        "feed_forward.w2": ("feed_forward.linear_2",),
        "feed_forward.w3": ("feed_forward.linear_3",),
        "ffn_norm1": ("ffn_norm1",),
        "ffn_norm2": ("ffn_norm2",),
    }


ORIGINAL = Translation(
    "transformer",
    top={
        "x_embedder": ("x_embedder",),
        "t_embedder.mlp.0": ("time_caption_embed.timestep_embedder.linear_1",),
        "t_embedder.mlp.2": ("time_caption_embed.timestep_embedder.linear_2",),
        "cap_embedder.0": ("time_caption_embed.caption_embedder.0",),
        "cap_embedder.1": ("time_caption_embed.caption_embedder.1",),
        "final_layer.adaLN_modulation.1": ("norm_out.linear_1",),
        "final_layer.linear": ("norm_out.linear_2",),
    },
    blocks={
        "noise_refiner": ("noise_refiner", _names("norm1.norm")),
        "context_refiner": ("context_refiner", _names("norm1")),
        "layers": ("layers", _names("norm1.norm")),
    },
)
"""The names of the code of Alpha-VLLM."""


@cache
def _versions() -> tuple[BaseModel, ...]:
    labels = ("Lumina", "lumina-2", "Alpha-VLLM/Lumina-Image-2.0", "neta-art/Neta-Lumina", "lumina_2")
    return (known_base(NAME, family=NAME, labels=labels, components={"transformer": _transformer()}),)


FAMILY = Family(
    name=NAME,
    summary="Lumina-Image 2.0: transformer blocks over text and image",
    versions=_versions,
    recognises=holds_class("transformer", "Lumina2Transformer2DModel"),
    components=present("transformer"),
    canonical=as_it_is,
    spoken={NAME: ("lumina2", "lumina-2")},
    parameters={NAME: 2_609_769_152},
    namings={"own": own_names, "original": ORIGINAL},
    trainer_naming="original",
    flat_prefixes={"transformer": ("lora_unet_", "lora_transformer_")},
)
