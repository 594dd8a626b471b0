"""Segmind-Vega: SDXL distilled by Segmind to a third of its size, without attention in the middle.

Its names and shapes are a strict subset of SDXL's and of SSD-1B's (arXiv 2401.02677).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from lorax.base_model import BaseModel, Family
from lorax.inventories import unet_pipelines as pipelines
from lorax.inventories.unet import UNet

NAME = "segmind-vega"

VEGA_UNET = UNet(
    channels=4, widths=(320, 640, 1280), depths=(0, 1, 2), middle_depth=0, layers=2, context=2048,
    linear_projection=True, added_width=2816,
)  # fmt: skip
"""The U-Net of Segmind-Vega, 745,225,604 parameters."""

_LABELS = ("segmind/Segmind-Vega", "vega")


@cache
def versions() -> tuple[BaseModel, ...]:
    """Gives Segmind-Vega."""
    encoders = (pipelines.clip_l(), pipelines.openclip_big_g())
    return (pipelines.pipeline_base("segmind-vega", NAME, VEGA_UNET, encoders, _LABELS),)


def _recognises(folder: Path) -> bool:
    return pipelines.is_pruned_sdxl(folder, deepest=2)


FAMILY = Family(
    name=NAME,
    summary="Segmind-Vega, SDXL distilled to a third of its size.",
    versions=versions,
    recognises=_recognises,
    components=pipelines.components,
    canonical=pipelines.canonical,
    not_sites=pipelines.NOT_SITES,
    spoken={"segmind-vega": ("segmind-vega", "segmind-vega")},
    parameters={"segmind-vega": 1_562_945_924},
    namings=pipelines.NAMINGS,
    trainer_naming="sgm",
    flat_prefixes=pipelines.TWO_ENCODERS,
)
