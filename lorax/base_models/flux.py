"""Flux.1: a diffusion transformer of joint and single blocks, with a CLIP-L and a T5-XXL text encoder.

Canonical names are diffusers'; the code of Black Forest Labs, whose names trainers use, fuses query, key, value and the
first feed-forward layer, and stores the last modulation as shift, scale where diffusers has scale, shift.
"""

from __future__ import annotations

from functools import cache

from lorax.base_model import BaseModel, Family
from lorax.inventories.known import holds_class, known_base, present, t5_xxl
from lorax.inventories.text_encoders import (
    CLIP_TABLES,
    T5_TABLES,
    clip_text,
    own_names_and_text_encoders,
    with_text_model,
)
from lorax.inventories.transformer import joint_block, single_block, two_layers
from lorax.inventories.translation import Translation
from lorax.inventory import Inventory, Parameters, linear, take_inventory

NAME = "flux"
_WIDTH, _HEAD, _TEXT, _POOLED, _LATENT = 3072, 128, 4096, 768, 64
_DOUBLE, _SINGLE = 19, 38


def _transformer(*, inputs: int = _LATENT, guidance: bool = True) -> Parameters:
    """Lists the parameters of FluxTransformer2DModel; inputs: latent channels of a patch, conditions included."""
    yield from two_layers("time_text_embed.timestep_embedder", _WIDTH, 256)
    if guidance:
        yield from two_layers("time_text_embed.guidance_embedder", _WIDTH, 256)
    yield from two_layers("time_text_embed.text_embedder", _WIDTH, _POOLED)
    yield from linear("context_embedder", _WIDTH, _TEXT)
    yield from linear("x_embedder", _WIDTH, inputs)
    for number in range(_DOUBLE):
        yield from joint_block(f"transformer_blocks.{number}", _WIDTH, head=_HEAD)
    for number in range(_SINGLE):
        yield from single_block(f"single_transformer_blocks.{number}", _WIDTH, head=_HEAD)
    yield from linear("norm_out.linear", 2 * _WIDTH, _WIDTH)
    yield from linear("proj_out", _LATENT, _WIDTH)


_QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
_ADDED_QKV = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")

ORIGINAL = Translation(
    "transformer",
    top={
        "img_in": ("x_embedder",),
        "txt_in": ("context_embedder",),
        "time_in.in_layer": ("time_text_embed.timestep_embedder.linear_1",),
        "time_in.out_layer": ("time_text_embed.timestep_embedder.linear_2",),
        "guidance_in.in_layer": ("time_text_embed.guidance_embedder.linear_1",),
        "guidance_in.out_layer": ("time_text_embed.guidance_embedder.linear_2",),
        "vector_in.in_layer": ("time_text_embed.text_embedder.linear_1",),
        "vector_in.out_layer": ("time_text_embed.text_embedder.linear_2",),
        "final_layer.adaLN_modulation.1": ("norm_out.linear",),
        "final_layer.linear": ("proj_out",),
    },
    blocks={
        "double_blocks": (
            "transformer_blocks",
            {
                "img_mod.lin": ("norm1.linear",),
                "img_attn.qkv": _QKV,
                "img_attn.norm.query_norm": ("attn.norm_q",),
                "img_attn.norm.key_norm": ("attn.norm_k",),
                "img_attn.proj": ("attn.to_out.0",),
                "img_mlp.0": ("ff.net.0.proj",),
                "img_mlp.2": ("ff.net.2",),
                "txt_mod.lin": ("norm1_context.linear",),
                "txt_attn.qkv": _ADDED_QKV,
                "txt_attn.norm.query_norm": ("attn.norm_added_q",),
                "txt_attn.norm.key_norm": ("attn.norm_added_k",),
                "txt_attn.proj": ("attn.to_add_out",),
                "txt_mlp.0": ("ff_context.net.0.proj",),
                "txt_mlp.2": ("ff_context.net.2",),
            },
        ),
        "single_blocks": (
            "single_transformer_blocks",
            {
                "modulation.lin": ("norm.linear",),
                "linear1": (*_QKV, "proj_mlp"),
                "linear2": ("proj_out",),
                "norm.query_norm": ("attn.norm_q",),
                "norm.key_norm": ("attn.norm_k",),
            },
        ),
    },
    swapped=lambda _base: frozenset({"final_layer.adaLN_modulation.1"}),
)
"""The names of the code of Black Forest Labs."""


@cache
def _clip() -> Inventory:
    return take_inventory({"text_encoder": clip_text(12, 768)})


def _base(name: str, labels: tuple[str, ...], *, inputs: int = _LATENT, guidance: bool = True) -> BaseModel:
    return known_base(
        name,
        family=NAME,
        labels=labels,
        components={"transformer": _transformer(inputs=inputs, guidance=guidance)},
        shared=(_clip(), t5_xxl("text_encoder_2")),
    )


@cache
def _versions() -> tuple[BaseModel, ...]:
    dev = (
        "flux-1-dev", "Flux.1 D", "Flux.1 Krea", "Flux.1 Kontext", "flux_kontext", "flux1-dev-fp8", "flux1-krea-dev",
        "flux1-kontext-dev", "black-forest-labs/FLUX.1-dev", "black-forest-labs/FLUX.1-Krea-dev",
        "black-forest-labs/FLUX.1-Kontext-dev",
    )  # fmt: skip
    schnell = ("flux-1-schnell", "Flux.1 S", "black-forest-labs/FLUX.1-schnell")
    control = (
        "black-forest-labs/FLUX.1-Canny-dev", "black-forest-labs/FLUX.1-Depth-dev", "flux1-canny-dev",
        "flux1-depth-dev",
    )  # fmt: skip
    return (
        _base("flux1-dev", dev),
        _base("flux1-schnell", schnell, guidance=False),
        _base("flux1-control", control, inputs=2 * _LATENT),
        _base("flux1-fill", ("black-forest-labs/FLUX.1-Fill-dev", "flux1-fill-dev"), inputs=6 * _LATENT),
    )


def _canonical(component: str, module: str) -> str:
    return with_text_model(module) if component == "text_encoder" else module


FAMILY = Family(
    name=NAME,
    summary="Flux.1: joint and single transformer blocks, with CLIP-L and T5-XXL",
    versions=_versions,
    recognises=holds_class("transformer", "FluxTransformer2DModel"),
    components=present("transformer", "text_encoder", "text_encoder_2"),
    canonical=_canonical,
    not_sites=CLIP_TABLES | T5_TABLES,
    spoken={
        "flux1-dev": ("flux1", "flux-1-dev"),
        "flux1-schnell": ("flux1", "flux-1-schnell"),
        "flux1-control": ("flux1", "flux-1-dev"),
        "flux1-fill": ("flux1", "flux-1-dev"),
    },
    parameters={
        "flux1-dev": 16_786_779_456,
        "flux1-schnell": 16_776_549_696,
        "flux1-control": 16_786_976_064,
        "flux1-fill": 16_787_762_496,
    },
    look_alikes=("Chroma", "Chroma1", "Flux.2 D"),
    namings={"own": own_names_and_text_encoders, "original": ORIGINAL},
    trainer_naming="original",
    flat_prefixes={
        "transformer": ("lora_unet_", "lora_transformer_"),
        "text_encoder": ("lora_te1_", "lora_te_"),
        # T5 is the third text encoder of sd-scripts, the second of OneTrainer.
        "text_encoder_2": ("lora_te3_", "lora_te2_"),
    },
    # Control and fill differ in the first layer only, which adapters hardly ever patch.
    equal_architectures=(frozenset({"flux1-dev", "flux1-schnell", "flux1-control", "flux1-fill"}),),
    variants={"flux1-control": "flux1-dev", "flux1-fill": "flux1-dev"},
)
