"""FramePack: HunyuanVideo's blocks with embeddings of the first image and of past frames.

A family of its own because trainers name its modules as diffusers does, and HunyuanVideo's as Tencent does.
"""

from __future__ import annotations

from functools import cache

from lorax.base_model import BaseModel, Family
from lorax.inventories.hunyuan import COMFYUI, ORIGINAL, transformer
from lorax.inventories.known import as_it_is, holds_class, known_base, present
from lorax.naming import own_names

NAME = "framepack"


@cache
def _versions() -> tuple[BaseModel, ...]:
    labels = ("lllyasviel/FramePackI2V_HY", "lllyasviel/FramePack_F1_I2V_HY_20250503", "FramePack-F1")
    return (known_base(NAME, family=NAME, labels=labels, components={"transformer": transformer(framepack=True)}),)


FAMILY = Family(
    name=NAME,
    summary="FramePack: HunyuanVideo that sees its past frames",
    versions=_versions,
    recognises=holds_class(
        "transformer", "HunyuanVideoFramepackTransformer3DModel", "HunyuanVideoTransformer3DModelPacked"
    ),
    components=present("transformer"),
    canonical=as_it_is,
    spoken={NAME: ("framepack", "framepack")},
    parameters={NAME: 12_874_314_816},
    namings={"own": own_names, "original": ORIGINAL},
    program_namings={"comfyui": COMFYUI},
    flat_prefixes={"transformer": ("lora_unet_", "lora_transformer_")},
)
