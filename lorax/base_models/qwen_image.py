"""Qwen-Image and Qwen-Image-Edit: joint transformer blocks, whose original names are those of diffusers."""

from __future__ import annotations

from functools import cache

from lorax.base_model import BaseModel, Family
from lorax.inventories.known import as_it_is, holds_class, known_base, present
from lorax.inventories.transformer import feed_forward, joint_attention, two_layers
from lorax.inventory import Parameter, Parameters, linear

NAME = "qwen-image"
_WIDTH, _HEAD, _TEXT, _LATENT, _DEPTH = 3072, 128, 3584, 64, 60


def _transformer() -> Parameters:
    """Lists the parameters of QwenImageTransformer2DModel."""
    yield from two_layers("time_text_embed.timestep_embedder", _WIDTH, 256)
    yield Parameter("txt_norm.weight", (_TEXT,))
    yield from linear("img_in", _WIDTH, _LATENT)
    yield from linear("txt_in", _WIDTH, _TEXT)
    for number in range(_DEPTH):
        path = f"transformer_blocks.{number}"
        yield from joint_attention(f"{path}.attn", _WIDTH, head=_HEAD)
        for stream in ("img", "txt"):
            yield from linear(f"{path}.{stream}_mod.1", 6 * _WIDTH, _WIDTH)
            yield from feed_forward(f"{path}.{stream}_mlp", _WIDTH, 4 * _WIDTH)
    yield from linear("norm_out.linear", 2 * _WIDTH, _WIDTH)
    yield from linear("proj_out", _LATENT, _WIDTH)


@cache
def _versions() -> tuple[BaseModel, ...]:
    labels = (
        "Qwen", "qwen_image", "qwen_image_edit", "Qwen/Qwen-Image", "Qwen/Qwen-Image-2512", "Qwen/Qwen-Image-Edit",
        "Qwen/Qwen-Image-Edit-2509", "Qwen/Qwen-Image-Edit-2511", "Qwen-Image-Edit-Plus", "qwen_image_bf16",
        "qwen_image_fp8_e4m3fn",
    )  # fmt: skip
    return (known_base(NAME, family=NAME, labels=labels, components={"transformer": _transformer()}),)


FAMILY = Family(
    name=NAME,
    summary="Qwen-Image and Qwen-Image-Edit: joint transformer blocks",
    versions=_versions,
    recognises=holds_class("transformer", "QwenImageTransformer2DModel"),
    components=present("transformer"),
    canonical=as_it_is,
    spoken={NAME: ("qwen_image", "Qwen-Image")},
    parameters={NAME: 20_430_401_088},
    flat_prefixes={"transformer": ("lora_unet_", "lora_transformer_")},
)
