"""Bases with the true names and shapes of Stable Diffusion's family, random weights of half precision, no download.

The distilled one is made from the other: what its blocks are descended from, plus noise. So subspaces are alike where
they are alike in the true pair, and methods that look for that do the work that they would do there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorax.adapter import Site
from lorax.base_model import BaseModel
from lorax.base_pair import correspondence
from lorax.weight_file import write_weight_file

_SD = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
}
CONFIGS: dict[str, dict[str, Any]] = {
    "sd1.5": {**_SD, "layers_per_block": 2},
    "bk-sdm-base": {**_SD, "layers_per_block": 1},
    "bk-sdm-small": {**_SD, "layers_per_block": 1, "mid_block_type": None},
}
"""The U-Net of each, as diffusers configures it."""
FILES = {"unet": "diffusion_pytorch_model.safetensors", "text_encoder": "model.safetensors"}
NOISE = 0.3
"""Norm of what distilling adds, over the norm of what was there."""


def make_base(folder: Path, base: BaseModel, *, parent: BaseModel | None = None) -> Path:
    """Writes a base model folder and returns it. parent: the base that this one was distilled from."""
    origins = correspondence(parent, base) if parent is not None else {}
    for component, file in FILES.items():
        place = folder / component
        place.mkdir(parents=True)
        config = CONFIGS[base.version] if component == "unet" else {"model_type": "clip_text_model"}
        (place / "config.json").write_text(json.dumps(config))
        write_weight_file(place / file, _tensors(base, component, origins.get), metadata={"format": "pt"})
    return folder


def _tensors(base: BaseModel, component: str, origin: Callable[[Site], Site | str | None]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for site, shape in base.sites.items():
        if site.component == component:
            here = origin(site)
            weight = _random(here if isinstance(here, Site) else site, shape.weight_shape)
            more = _random(Site("noise", site.path), shape.weight_shape) if isinstance(here, Site) else 0
            found[f"{site.path}.weight"] = (weight + NOISE * more).half()
    for site, shape in base.tables.items():
        if site.component == component:
            found[f"{site.path}.weight"] = _random(site, shape.weight_shape).half()
    for site, length in base.vectors.items():
        if site.component == component:
            fill = torch.ones if site.path.endswith(".weight") else torch.zeros
            found[site.path] = fill(length, dtype=torch.float16)
    return found


def _random(site: Site, shape: tuple[int, ...]) -> Tensor:
    """A weight whose singular values fall as 1/k^0.5, always the same for a site and a shape."""
    seed = int.from_bytes(hashlib.sha256(f"{site} {shape}".encode()).digest()[:6], "big")
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).flatten(1)
    short = min(weight.shape)
    scale = torch.arange(1, short + 1).pow(-0.5)
    fallen = scale[:, None] * weight if weight.shape[0] == short else weight * scale
    return fallen.reshape(shape) / short**0.5
