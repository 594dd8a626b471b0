"""SSD-1B: SDXL distilled by Segmind, with fewer transformer blocks and no attention in the middle.

Its names and shapes are a strict subset of SDXL's (arXiv 2401.02677).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from lorax.base_model import BaseModel, Family
from lorax.inventories import unet_pipelines as pipelines
from lorax.inventories.unet import UNet

NAME = "ssd-1b"

SSD_1B_UNET = UNet(
    channels=4, widths=(320, 640, 1280), depths=(0, 2, 4), middle_depth=0, up_depths=((4, 4, 10), (2, 1, 1), 0),
    layers=2, context=2048, linear_projection=True, added_width=2816,
)  # fmt: skip
"""The U-Net of SSD-1B, 1,331,334,404 parameters."""

_LABELS = ("segmind/SSD-1B", "segmind-stable-diffusion-1b", "latent-consistency/lcm-ssd-1b", "SSD-1B-A1111")


@cache
def versions() -> tuple[BaseModel, ...]:
    """Gives SSD-1B."""
    encoders = (pipelines.clip_l(), pipelines.openclip_big_g())
    return (pipelines.pipeline_base("ssd-1b", NAME, SSD_1B_UNET, encoders, _LABELS),)


def _recognises(folder: Path) -> bool:
    return pipelines.is_pruned_sdxl(folder, deepest=4)


FAMILY = Family(
    name=NAME,
    summary="SSD-1B, SDXL distilled to half its size.",
    versions=versions,
    recognises=_recognises,
    components=pipelines.components,
    canonical=pipelines.canonical,
    not_sites=pipelines.NOT_SITES,
    spoken={"ssd-1b": ("ssd_1b", "segmind-stable-diffusion-1b")},
    parameters={"ssd-1b": 2_149_054_724},
    namings=pipelines.NAMINGS,
    trainer_naming="sgm",
    flat_prefixes=pipelines.TWO_ENCODERS,
)
