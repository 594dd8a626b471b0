"""What families with a conditional U-Net and CLIP text encoders have in common: inventories and folders."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache, reduce
from operator import or_
from pathlib import Path

from lorax.base_model import BaseModel
from lorax.inventories.sgm import sgm_names
from lorax.inventories.text_encoders import CLIP_TABLES, clip_text, own_names_and_text_encoders, with_text_model
from lorax.inventories.unet import UNet
from lorax.inventory import Inventory, take_inventory

NOT_SITES = CLIP_TABLES | {"class_embedding"}
NAMINGS = {"own": own_names_and_text_encoders, "sgm": sgm_names}
ONE_ENCODER = {"unet": ("lora_unet_",), "text_encoder": ("lora_te_", "lora_te1_")}
"""What sd-scripts writes before flat names of SD1 and SD2; OneTrainer numbers the only text encoder too."""
TWO_ENCODERS = {"unet": ("lora_unet_",), "text_encoder": ("lora_te1_",), "text_encoder_2": ("lora_te2_",)}
"""What sd-scripts writes before flat names of SDXL."""

_TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
_CONFIG_BYTES = 2**20


@cache
def clip_l() -> Inventory:
    """Gives CLIP ViT-L/14's text encoder as `text_encoder`: of SD1, and the first one of SDXL."""
    return take_inventory({"text_encoder": clip_text(12, 768)})


@cache
def openclip_h() -> Inventory:
    """Gives OpenCLIP ViT-H/14's text encoder as `text_encoder`: of SD2, which leaves out its last layer of 24."""
    return take_inventory({"text_encoder": clip_text(23, 1024)})


@cache
def openclip_big_g() -> Inventory:
    """Gives OpenCLIP ViT-bigG/14's text encoder with its projection as `text_encoder_2`: the second one of SDXL."""
    return take_inventory({"text_encoder_2": clip_text(32, 1280, projection=1280)})


def pipeline_base(
    version: str, family: str, unet: UNet, text_encoders: Sequence[Inventory], labels: Sequence[str]
) -> BaseModel:
    """Gives a base model without weights; its name is its version, for the versions of all families differ."""
    parts = (take_inventory({"unet": unet.parameters()}), *text_encoders)
    return BaseModel(
        name=version,
        family=family,
        version=version,
        # Joining dicts keeps the hashes of their keys, which are most of the work of making one.
        sites=reduce(or_, (part.sites for part in parts)),
        tables=reduce(or_, (part.tables for part in parts)),
        vectors=reduce(or_, (part.vectors for part in parts)),
        labels=tuple(labels),
        parameters=sum(part.parameters for part in parts),
    )


def unet_config(folder: Path) -> Mapping[str, object]:
    """Reads what a folder's U-Net says of itself, with diffusers' defaults, empty unless a UNet2DConditionModel."""
    path = folder / "unet" / "config.json"
    if not path.is_file() or path.stat().st_size > _CONFIG_BYTES:
        return {}
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict) or found.get("_class_name") != "UNet2DConditionModel":
        return {}
    return {"mid_block_type": "UNetMidBlock2DCrossAttn", "layers_per_block": 2, "cross_attention_dim": 1280, **found}


def is_pruned_sdxl(folder: Path, *, deepest: int) -> bool:
    """Tells whether a folder holds SDXL without attention in the middle, its coarsest level of this depth."""
    config = unet_config(folder)
    middle, added = config.get("mid_block_type"), config.get("addition_embed_type")
    if (middle, added) != ("UNetMidBlock2D", "text_time"):
        return False
    depths = config.get("transformer_layers_per_block")
    last = depths[-1] if isinstance(depths, list) and depths else None
    return (last if isinstance(last, list) else [last] * 2) == [deepest] * 2


def components(folder: Path) -> dict[str, Path]:
    """Gives the weight folders of the U-Net and the text encoders that are there."""
    return {name: folder / name for name in ("unet", *_TEXT_ENCODERS) if (folder / name).is_dir()}


def canonical(component: str, module: str) -> str:
    """Gives a text encoder's modules their `text_model.` level back, which transformers 5.6 and later leave out."""
    return with_text_model(module) if component in _TEXT_ENCODERS else module
