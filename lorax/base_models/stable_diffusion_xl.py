"""Stable Diffusion XL: a U-Net of three levels with deep attention, two text encoders, and the refiner behind it.

Pony, Illustrious, NoobAI, Animagine, Turbo, Lightning and their like are other checkpoints of equal shape.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

from lorax.base_model import BaseModel, Family
from lorax.inventories import unet_pipelines as pipelines
from lorax.inventories.unet import UNet

NAME = "stable-diffusion-xl"

SDXL_UNET = UNet(
    channels=4, widths=(320, 640, 1280), depths=(0, 2, 10), middle_depth=10, layers=2, context=2048,
    linear_projection=True, added_width=2816,
)  # fmt: skip
"""The U-Net of Stable Diffusion XL, 2,567,463,684 parameters."""

REFINER_UNET = UNet(
    channels=4, widths=(384, 768, 1536, 1536), depths=(0, 4, 4, 0), middle_depth=4, layers=2, context=1280,
    linear_projection=True, added_width=2560,
)  # fmt: skip
"""The U-Net of Stable Diffusion XL's refiner, which knows the second text encoder only."""

_LABELS = (
    "sdxl_base_v1-0", "sdxl_1.0", "sdxl_v1", "SDXL 0.9", "SDXL 1.0", "SDXL 1.0 LCM", "SDXL Lightning", "SDXL Hyper",
    "SDXL Turbo", "Pony", "Illustrious", "NoobAI", "Animagine", "Playground v2", "stable-diffusion-xl-v1-base",
    "stable-diffusion-xl-turbo-v1", "stable-diffusion-xl-v1", "stabilityai/stable-diffusion-xl-base-1.0",
    "stabilityai/stable-diffusion-xl-base-0.9", "sd_xl_base_1.0", "sd_xl_base_1.0_0.9vae", "sd_xl_base_0.9",
    "sd_xl_turbo_1.0", "latent-consistency/lcm-sdxl", "AstraliteHeart/pony-diffusion-v6", "ponyDiffusionV6XL",
    "ponyDiffusionV6XL_v6StartWithThisOne", "OnomaAIResearch/Illustrious-xl-early-release-v0", "Illustrious-XL-v0.1",
    "OnomaAIResearch/Illustrious-XL-v1.0", "OnomaAIResearch/Illustrious-XL-v1.1",
    "OnomaAIResearch/Illustrious-XL-v2.0", "Laxhar/noobai-XL-1.0", "Laxhar/noobai-XL-1.1",
    "Laxhar/noobai-XL-Vpred-1.0", "Linaqruf/animagine-xl", "Linaqruf/animagine-xl-2.0",
    "cagliostrolab/animagine-xl-3.0", "cagliostrolab/animagine-xl-3.1", "cagliostrolab/animagine-xl-4.0",
    "playgroundai/playground-v2-1024px-aesthetic", "playgroundai/playground-v2.5-1024px-aesthetic",
    "RunDiffusion/Juggernaut-XL-v9", "Lykon/dreamshaper-xl-1-0", "Lykon/dreamshaper-xl-v2-turbo",
    "SG161222/RealVisXL_V4.0", "SG161222/RealVisXL_V5.0",
)  # fmt: skip
_REFINER_LABELS = (
    "SDXL Refiner", "sdxl_refiner_v1-0", "stable-diffusion-xl-v1-refiner", "sd_xl_refiner_1.0", "sd_xl_refiner_0.9",
    "stabilityai/stable-diffusion-xl-refiner-1.0", "stabilityai/stable-diffusion-xl-refiner-0.9",
)  # fmt: skip
_INPAINTING_LABELS = (
    "sdxl_base_v1-0_inpainting", "stable-diffusion-xl-v1-inpainting",
    "diffusers/stable-diffusion-xl-1.0-inpainting-0.1",
)  # fmt: skip


@cache
def versions() -> tuple[BaseModel, ...]:
    """Gives SDXL 1.0, whose shapes are those of 0.9 too, its inpainting sibling and its refiner."""
    first, second = pipelines.clip_l(), pipelines.openclip_big_g()
    inpainting = replace(SDXL_UNET, extra_channels=5)
    return (
        pipelines.pipeline_base("sdxl", NAME, SDXL_UNET, (first, second), _LABELS),
        pipelines.pipeline_base("sdxl-inpainting", NAME, inpainting, (first, second), _INPAINTING_LABELS),
        pipelines.pipeline_base("sdxl-refiner", NAME, REFINER_UNET, (second,), _REFINER_LABELS),
    )


def _recognises(folder: Path) -> bool:
    """Whether the U-Net adds pooled text and sizes to the time and takes its text states from CLIP as they are.

    Kolors, whose text states come from another encoder through a projection, and models whose middle lost its attention
    are no members.
    """
    config = pipelines.unet_config(folder)
    projected = config.get("encoder_hid_dim") is not None or config.get("encoder_hid_dim_type") is not None
    attended = config.get("mid_block_type") != "UNetMidBlock2D"
    return config.get("addition_embed_type") == "text_time" and attended and not projected


FAMILY = Family(
    name=NAME,
    summary="Stable Diffusion XL, the many checkpoints of equal shape, inpainting and refiner.",
    versions=versions,
    recognises=_recognises,
    components=pipelines.components,
    canonical=pipelines.canonical,
    not_sites=pipelines.NOT_SITES,
    spoken={
        "sdxl": ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base"),
        # Nobody has words of their own for these two; loaders go by the "sdxl_" in front.
        "sdxl-inpainting": ("sdxl_base_v1-0_inpainting", "stable-diffusion-xl-v1-inpainting"),
        "sdxl-refiner": ("sdxl_refiner_v1-0", "stable-diffusion-xl-v1-refiner"),
    },
    parameters={"sdxl": 3_385_184_004, "sdxl-inpainting": 3_385_198_404, "sdxl-refiner": 2_954_186_500},
    namings=pipelines.NAMINGS,
    trainer_naming="sgm",
    flat_prefixes=pipelines.TWO_ENCODERS,
    equal_architectures=(frozenset({"sdxl", "sdxl-inpainting"}),),
    look_alikes=("Kolors", "Pony V7", "AuraFlow"),
    variants={"sdxl-inpainting": "sdxl"},
)
