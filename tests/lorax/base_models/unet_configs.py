"""The configurations that the real pipelines publish, cut down to what shapes follow from, and the models they make."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

Config = Mapping[str, Any]

_ATTENDED, _PLAIN = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"), ("DownBlock2D", "UpBlock2D")


def blocks(levels: str) -> dict[str, list[str]]:
    """Returns the kinds of levels, from fine to coarse on the way down and back on the way up.

    levels: a sign for each, A with attention and - without.
    """
    kinds = [_ATTENDED if level == "A" else _PLAIN for level in levels]
    return {"down_block_types": [down for down, _ in kinds], "up_block_types": [up for _, up in reversed(kinds)]}


SD15 = {
    "block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 768, "attention_head_dim": 8,
    "layers_per_block": 2, "in_channels": 4, "out_channels": 4, "sample_size": 64,
    **blocks("AAA-"),
}  # fmt: skip
SD21 = {
    **SD15, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True,
    "dual_cross_attention": False, "upcast_attention": True, "sample_size": 96,
}  # fmt: skip
SDXL = {
    "block_out_channels": [320, 640, 1280], "cross_attention_dim": 2048, "attention_head_dim": [5, 10, 20],
    "layers_per_block": 2, "in_channels": 4, "out_channels": 4, "sample_size": 128, "use_linear_projection": True,
    "transformer_layers_per_block": [1, 2, 10], "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816, "class_embed_type": None, "num_class_embeds": None,
    "encoder_hid_dim": None, "encoder_hid_dim_type": None, "mid_block_type": "UNetMidBlock2DCrossAttn",
    **blocks("-AA"),
}  # fmt: skip
REFINER = {
    **SDXL, "block_out_channels": [384, 768, 1536, 1536], "cross_attention_dim": 1280,
    "attention_head_dim": [6, 12, 24, 24], "transformer_layers_per_block": 4,
    "projection_class_embeddings_input_dim": 2560, **blocks("-AA-"),
}  # fmt: skip
SSD_1B = {
    **SDXL, "mid_block_type": "UNetMidBlock2D", "transformer_layers_per_block": [1, [2, 2], [4, 4]],
    "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
}  # fmt: skip
VEGA = {**SDXL, "mid_block_type": "UNetMidBlock2D", "transformer_layers_per_block": [1, 1, 2]}
BK_BASE = {**SD15, "layers_per_block": 1}
BK_SMALL = {**BK_BASE, "mid_block_type": None}
BK_TINY = {**BK_SMALL, "block_out_channels": [320, 640, 1280], **blocks("AAA")}

CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
OPENCLIP_H = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 23}
BIG_G = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20, "num_hidden_layers": 32,
    "projection_dim": 1280,
}  # fmt: skip

PIPELINES: dict[str, dict[str, Config]] = {
    "sd1.5": {"unet": SD15, "text_encoder": CLIP_L},
    "sd1.5-inpainting": {"unet": {**SD15, "in_channels": 9}, "text_encoder": CLIP_L},
    "sd2.1": {"unet": SD21, "text_encoder": OPENCLIP_H},
    "sdxl": {"unet": SDXL, "text_encoder": CLIP_L, "text_encoder_2": BIG_G},
    "sdxl-inpainting": {"unet": {**SDXL, "in_channels": 9}, "text_encoder": CLIP_L, "text_encoder_2": BIG_G},
    "sdxl-refiner": {"unet": REFINER, "text_encoder_2": BIG_G},
    "ssd-1b": {"unet": SSD_1B, "text_encoder": CLIP_L, "text_encoder_2": BIG_G},
    "segmind-vega": {"unet": VEGA, "text_encoder": CLIP_L, "text_encoder_2": BIG_G},
    "bk-sdm-base": {"unet": BK_BASE, "text_encoder": CLIP_L},
    "bk-sdm-small": {"unet": BK_SMALL, "text_encoder": CLIP_L},
    "bk-sdm-tiny": {"unet": BK_TINY, "text_encoder": CLIP_L},
}

FAMILY_OF = {
    "sd1.5": "stable-diffusion",
    "sd1.5-inpainting": "stable-diffusion",
    "sd2.1": "stable-diffusion-2",
    "sdxl": "stable-diffusion-xl",
    "sdxl-inpainting": "stable-diffusion-xl",
    "sdxl-refiner": "stable-diffusion-xl",
    "ssd-1b": "ssd-1b",
    "segmind-vega": "segmind-vega",
    "bk-sdm-base": "bk-sdm",
    "bk-sdm-small": "bk-sdm",
    "bk-sdm-tiny": "bk-sdm",
}

Shapes = Mapping[str, tuple[int, ...]]


def official_shapes(component: str, config: Config) -> Shapes:
    """Returns name and shape of every parameter of the component as diffusers or transformers make it."""
    return _made(component, json.dumps(config, sort_keys=True))


@cache
def _made(component: str, config: str) -> Shapes:
    with torch.device("meta"):
        model = _model(component, json.loads(config))
    return {name: tuple(weight.shape) for name, weight in model.named_parameters()}


def _model(component: str, config: dict[str, Any]) -> torch.nn.Module:
    if component == "unet":
        from diffusers import UNet2DConditionModel

        return UNet2DConditionModel(**config)  # type: ignore[no-any-return]
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    kind = CLIPTextModelWithProjection if "projection_dim" in config else CLIPTextModel
    return kind(CLIPTextConfig(**config))  # type: ignore[no-any-return]
