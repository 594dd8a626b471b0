"""BK-SDM: Stable Diffusion 1 with whole blocks removed and the rest distilled (arXiv 2305.15798).

Of SD1 every level keeps the first residual layer and attention on the way down, the first and the last on the way up
(the last is renumbered to 1). `small` has no middle block; `tiny` has no coarsest level either, so that its up_blocks
are SD1's shifted by one. Segmind's small-sd and tiny-sd are of the shapes of `base` and `tiny`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

from lorax.base_model import BaseModel, Family
from lorax.inventories import unet_pipelines as pipelines
from lorax.inventories.unet import UNet

NAME = "bk-sdm"

BASE_UNET = UNet(
    channels=4, widths=(320, 640, 1280, 1280), depths=(1, 1, 1, 0), middle_depth=1, layers=1, context=768
)  # fmt: skip
"""The U-Net of BK-SDM-Base, 579,384,964 parameters."""

_UNETS = {
    "bk-sdm-base": BASE_UNET,
    "bk-sdm-small": replace(BASE_UNET, middle_depth=None),
    "bk-sdm-tiny": replace(BASE_UNET, middle_depth=None, widths=(320, 640, 1280), depths=(1, 1, 1)),
}
_LABELS = {
    "bk-sdm-base": ("nota-ai/bk-sdm-base", "nota-ai/bk-sdm-base-2m", "segmind/small-sd"),
    "bk-sdm-small": ("nota-ai/bk-sdm-small", "nota-ai/bk-sdm-small-2m"),
    "bk-sdm-tiny": (
        "nota-ai/bk-sdm-tiny", "nota-ai/bk-sdm-tiny-2m", "segmind/tiny-sd", "segmind/portrait-finetuned",
    ),
}  # fmt: skip


@cache
def versions() -> tuple[BaseModel, ...]:
    """Gives BK-SDM-Base, -Small and -Tiny."""
    encoders = (pipelines.clip_l(),)
    return tuple(
        pipelines.pipeline_base(version, NAME, unet, encoders, _LABELS[version]) for version, unet in _UNETS.items()
    )


def _recognises(folder: Path) -> bool:
    """Whether the U-Net has SD1's or SD2's text states and levels, with one residual layer on the way down."""
    config = pipelines.unet_config(folder)
    widths = config.get("block_out_channels")
    finer = isinstance(widths, list) and widths[:3] == [320, 640, 1280]
    alike = config.get("cross_attention_dim") in (768, 1024) and config.get("addition_embed_type") is None
    return finer and alike and config.get("layers_per_block") == 1


FAMILY = Family(
    name=NAME,
    summary="BK-SDM and Segmind's small-sd and tiny-sd, Stable Diffusion 1 with blocks removed.",
    versions=versions,
    recognises=_recognises,
    components=pipelines.components,
    canonical=pipelines.canonical,
    not_sites=pipelines.NOT_SITES,
    spoken={version: (version, version) for version in _UNETS},
    parameters={"bk-sdm-base": 702_445_444, "bk-sdm-small": 605_407_364, "bk-sdm-tiny": 446_445_444},
    namings=pipelines.NAMINGS,
    flat_prefixes=pipelines.ONE_ENCODER,
)
