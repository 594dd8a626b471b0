"""Stable Diffusion 1 and 2 and what was distilled from them: a U-Net with one text encoder."""

from __future__ import annotations

from pathlib import Path

from lorax.diffusion_model import DiffusionModel, load_diffusion_model
from lorax.inventories.unet_pipelines import unet_config
from lorax.opening import Opening
from lorax.pipeline import Pipeline
from lorax.unet_model import unet_refused


def _fits(folder: Path) -> bool:
    config = unet_config(folder)
    return bool(config) and config.get("addition_embed_type") is None and not (folder / "text_encoder_2").is_dir()


def _load(opening: Opening) -> DiffusionModel:
    return load_diffusion_model(opening.folder, device=opening.device, dtype=opening.dtype)


PIPELINE = Pipeline(
    name="Stable Diffusion",
    summary="Stable Diffusion 1 and 2, BK-SDM: a U-Net with one CLIP text encoder",
    parts=("unet/", "text_encoder/", "tokenizer/", "scheduler/"),
    fits=_fits,
    load=_load,
    refused=unet_refused,
)
