"""Bases of true size, without weights: every site of the known base is a module, and a batch goes through.

On the meta device tensors have shapes and no numbers, so what takes gigabytes elsewhere takes nothing here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLLTXVideo,
    AutoencoderKLWan,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    LTXVideoTransformer3DModel,
    UNet2DConditionModel,
    WanTransformer3DModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from lorax.base_models import known_bases
from lorax.picture_model import PictureModel
from lorax.pipelines import flux, ltx_video, stable_diffusion_xl, wan
from tests.stand_ins.tiny_pipelines import PROMPTS, clip_tokenizer, t5_tokenizer

XL: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SSD_1B: dict[str, Any] = {
    "mid_block_type": "UNetMidBlock2D",
    "transformer_layers_per_block": (0, 2, 4),
    "reverse_transformer_layers_per_block": ((4, 4, 10), (2, 1, 1), 1),
}


def clip(width: int, layers: int, kind: Any) -> Any:
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "projection_dim": width}
    return kind(CLIPTextConfig(num_hidden_layers=layers, num_attention_heads=width // 64, **sizes))


def t5_xxl() -> Any:
    sizes = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
    return T5EncoderModel(T5Config(**sizes, feed_forward_proj="gated-gelu"))


def vae(channels: int, **settings: Any) -> Any:
    down, up = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
    widths = (128, 256, 512, 512)
    return AutoencoderKL(
        latent_channels=channels, block_out_channels=widths, down_block_types=down, up_block_types=up, **settings
    )


def xl(folder: Path, **unet: Any) -> PictureModel[Any]:
    parts = stable_diffusion_xl.Parts(
        unet=UNet2DConditionModel(**{**XL, **unet}),
        text_encoders=(clip(768, 12, CLIPTextModel), clip(1280, 32, CLIPTextModelWithProjection)),
        tokenizers=(clip_tokenizer(folder), clip_tokenizer(folder)),
        scheduler=DDIMScheduler(),
        vae=vae(4),
    )
    return stable_diffusion_xl.StableDiffusionXL(parts)


def flux_dev(folder: Path) -> PictureModel[Any]:
    parts = flux.Parts(
        transformer=FluxTransformer2DModel(guidance_embeds=True),
        text_encoders=(clip(768, 12, CLIPTextModel), t5_xxl()),
        tokenizers=(clip_tokenizer(folder), t5_tokenizer()),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae(16, shift_factor=0.1159),
    )
    return flux.Flux(parts)


class Reader(torch.nn.Module):
    """Stands for UMT5, whose mask is looked at number by number: gives states of its width."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(64, 4096)

    def forward(self, tokens: torch.Tensor, _mask: torch.Tensor) -> Any:
        found = type("Found", (), {})
        found.last_hidden_state = self.table(tokens)
        return found


def wan_small(_folder: Path) -> PictureModel[Any]:
    transformer = WanTransformer3DModel(num_attention_heads=12, num_layers=30, ffn_dim=8960, text_dim=4096)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return wan.Wan(wan.Parts(transformer, Reader(), t5_tokenizer(), scheduler, AutoencoderKLWan()))


def ltx(_folder: Path) -> PictureModel[Any]:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    parts = (LTXVideoTransformer3DModel(), t5_xxl(), t5_tokenizer(), scheduler, AutoencoderKLLTXVideo())
    return ltx_video.LTXVideo(ltx_video.Parts(*parts))


SIZES: dict[str, tuple[Callable[[Path], PictureModel[Any]], tuple[int, ...]]] = {
    "sdxl": (xl, (4, 128, 128)),
    "ssd-1b": (lambda folder: xl(folder, **SSD_1B), (4, 128, 128)),
    "flux1-dev": (flux_dev, (16, 64, 64)),
    "wan2.1-t2v-1.3b": (wan_small, (16, 3, 64, 64)),
    "ltx-video-2b": (ltx, (128, 2, 16, 16)),
}


@pytest.mark.parametrize("name", SIZES)
def test_a_base_of_true_size_has_every_site_and_takes_a_batch(name: str, tmp_path: Path) -> None:
    make, shape = SIZES[name]
    with torch.device("meta"):
        model = make(tmp_path)
    base = next(base for base in known_bases() if base.name == name)

    found = {site: getattr(model.module(site), "weight", None) for site in base.sites}
    wrong = [site for site, weight in found.items() if weight is None or weight.shape != base.sites[site].weight_shape]
    assert wrong == []
    assert model.latent_shape == shape
    latents, timesteps = torch.empty(2, *shape, device="meta"), torch.tensor([100, 700], device="meta")
    with torch.no_grad():
        states = model.encode(PROMPTS)
        assert model.predict(latents, timesteps, states=states, guidance=3.5).shape == latents.shape
