"""Stable Diffusion 1: a conditional U-Net with a CLIP text encoder, in diffusers' folder layout.

Also any other folder with a UNet2DConditionModel that no family of its own recognises, whatever its widths.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

from lorax.base_model import BaseModel, Family
from lorax.inventories import unet_pipelines as pipelines
from lorax.inventories.unet import UNet

NAME = "stable-diffusion"

SD15_UNET = UNet(
    channels=4, widths=(320, 640, 1280, 1280), depths=(1, 1, 1, 0), middle_depth=1, layers=2, context=768
)  # fmt: skip
"""The U-Net of Stable Diffusion 1.5, 859,520,964 parameters."""

_LABELS = (
    "sd_v1", "sd_v1_v", "sd_1.5", "SD 1.5", "SD 1.4", "SD 1.5 LCM", "SD 1.5 Hyper", "stable-diffusion-v1",
    "stable-diffusion-v1-5/stable-diffusion-v1-5", "CompVis/stable-diffusion-v1-4", "CompVis/stable-diffusion-v1-3",
    "CompVis/stable-diffusion-v1-2", "CompVis/stable-diffusion-v1-1", "v1-5-pruned", "v1-5-pruned-emaonly", "sd-v1-4",
    "sd-v1-5", "Lykon/DreamShaper", "Lykon/dreamshaper-7", "Lykon/dreamshaper-8", "SimianLuo/LCM_Dreamshaper_v7",
    "Lykon/AnyLoRA", "animefull-final-pruned", "SG161222/Realistic_Vision_V4.0",
    "SG161222/Realistic_Vision_V5.1_noVAE", "SG161222/Realistic_Vision_V6.0_B1_noVAE", "prompthero/openjourney",
    "dreamlike-art/dreamlike-diffusion-1.0", "dreamlike-art/dreamlike-photoreal-2.0",
)  # fmt: skip
_INPAINTING_LABELS = (
    "stable-diffusion-v1-inpainting", "sd_v1_inpainting", "stable-diffusion-v1-5/stable-diffusion-inpainting",
    "sd-v1-5-inpainting", "Lykon/dreamshaper-8-inpainting",
)  # fmt: skip


@cache
def versions() -> tuple[BaseModel, ...]:
    """Gives Stable Diffusion 1.5, whose shapes are those of 1.1 to 1.4 too, and its inpainting sibling."""
    encoders = (pipelines.clip_l(),)
    inpainting = replace(SD15_UNET, extra_channels=5)
    return (
        pipelines.pipeline_base("sd1.5", NAME, SD15_UNET, encoders, _LABELS),
        pipelines.pipeline_base("sd1.5-inpainting", NAME, inpainting, encoders, _INPAINTING_LABELS),
    )


def _recognises(folder: Path) -> bool:
    """Whether the folder holds a conditional U-Net that no other family claims."""
    from lorax.base_models import FAMILIES

    others = (family for family in FAMILIES.values() if family.name != NAME)
    return bool(pipelines.unet_config(folder)) and not any(family.recognises(folder) for family in others)


FAMILY = Family(
    name=NAME,
    summary="Stable Diffusion 1.x and its descendants of equal shape; any other conditional U-Net of diffusers.",
    versions=versions,
    recognises=_recognises,
    components=pipelines.components,
    canonical=pipelines.canonical,
    not_sites=pipelines.NOT_SITES,
    spoken={
        "sd1.5": ("sd_v1", "stable-diffusion-v1"),
        # sd-scripts says sd_v1 of both. Loaders go by how the word begins, so the rest may tell them apart.
        "sd1.5-inpainting": ("sd_v1_inpainting", "stable-diffusion-v1-inpainting"),
    },
    parameters={"sd1.5": 982_581_444, "sd1.5-inpainting": 982_595_844},
    namings=pipelines.NAMINGS,
    flat_prefixes=pipelines.ONE_ENCODER,
    equal_architectures=(frozenset({"sd1.5", "sd1.5-inpainting"}),),
    variants={"sd1.5-inpainting": "sd1.5"},
)
