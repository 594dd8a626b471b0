"""HunyuanVideo: joint and single transformer blocks over video, from text or from a first frame.

The image-to-video model that replaces the first frame's tokens has the weights of text-to-video by name and shape; the
older one that stacks the frame on the latents has 33 input channels.
"""

from __future__ import annotations

from functools import cache

from lorax.base_model import BaseModel, Family
from lorax.inventories.hunyuan import COMFYUI, ORIGINAL, transformer
from lorax.inventories.known import as_it_is, holds_class, known_base, present
from lorax.naming import own_names

NAME = "hunyuan-video"

_T2V = (
    "Hunyuan Video", "hunyuan_video", "tencent/HunyuanVideo", "hunyuanvideo-community/HunyuanVideo",
    "hunyuan_video_720_cfgdistill", "hunyuan_video_t2v_720p", "tencent/HunyuanVideo-I2V",
    "hunyuanvideo-community/HunyuanVideo-I2V", "FastVideo/FastHunyuan", "FastVideo/FastHunyuan-diffusers",
)  # fmt: skip


@cache
def _versions() -> tuple[BaseModel, ...]:
    stacked = {"transformer": transformer(inputs=33, guidance=False)}
    return (
        known_base("hunyuan-video-t2v", family=NAME, labels=_T2V, components={"transformer": transformer()}),
        known_base(
            "hunyuan-video-i2v-33ch",
            family=NAME,
            labels=("hunyuanvideo-community/HunyuanVideo-I2V-33ch",),
            components=stacked,
        ),
    )


FAMILY = Family(
    name=NAME,
    summary="HunyuanVideo: joint and single transformer blocks over video",
    versions=_versions,
    recognises=holds_class("transformer", "HunyuanVideoTransformer3DModel"),
    components=present("transformer"),
    canonical=as_it_is,
    spoken={
        "hunyuan-video-t2v": ("hunyuan_video", "hunyuan-video"),
        "hunyuan-video-i2v-33ch": ("hunyuan_video", "hunyuan-video"),
    },
    parameters={
        "hunyuan-video-t2v": 12_821_012_544,
        "hunyuan-video-i2v-33ch": 12_810_991_680,
    },
    namings={"own": own_names, "original": ORIGINAL},
    program_namings={"comfyui": COMFYUI},
    trainer_naming="original",
    flat_prefixes={"transformer": ("lora_unet_", "lora_transformer_")},
    variants={"hunyuan-video-i2v-33ch": "hunyuan-video-t2v"},
    equal_architectures=(frozenset({"hunyuan-video-t2v", "hunyuan-video-i2v-33ch"}),),
)
