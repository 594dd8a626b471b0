"""A loaded diffusion base of one text encoder: U-Net, tokenizer and scheduler, as in Stable Diffusion 1 and 2.

diffusers and transformers only load and run the modules; they are imported when a model is loaded, not before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorax.opening import Opening, opened
from lorax.picture_model import LatentProbe, noise_for
from lorax.unet_model import UNetModel, unet_scheduler

__all__ = ["DiffusionModel", "LatentProbe", "Parts", "load_diffusion_model", "noise_for"]


@dataclass(frozen=True, slots=True)
class Parts:
    """The objects of diffusers and transformers that make up a base; vae is None where pictures are not latents."""

    unet: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    vae: Any = None


class DiffusionModel(UNetModel[Tensor]):
    """A U-Net with its text encoder, tokenizer and scheduler on one device, never trained here."""

    def __init__(self, parts: Parts) -> None:
        self.unet, self.text_encoder, self.vae = parts.unet, parts.text_encoder, parts.vae
        self.tokenizer, self.scheduler = parts.tokenizer, parts.scheduler
        super().__init__({"unet": self.unet, "text_encoder": self.text_encoder})

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Returns text states (n, tokens, width). Each different prompt is encoded once."""
        distinct = sorted(set(prompts))
        tokens = self.tokenizer(
            distinct,
            padding="max_length",
            truncation=True,
            max_length=self.text_encoder.config.max_position_embeddings,
            return_tensors="pt",
        ).input_ids
        states: Tensor = self.text_encoder(tokens.to(self.device))[0]
        return states[[distinct.index(prompt) for prompt in prompts]]

    def predict(self, latents: Tensor, timesteps: Tensor, *, states: Tensor, guidance: float = 1.0) -> Tensor:
        """Returns the U-Net's output (n, c, h, w) for noisy latents (n, c, h, w) at integer timesteps (n,)."""
        del guidance
        found: Tensor = self.unet(latents.to(self.unet.dtype), timesteps, encoder_hidden_states=states).sample
        return found.float()


def load_diffusion_model(folder: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> DiffusionModel:
    """Opens a diffusers folder (unet, text_encoder, tokenizer, scheduler, vae where there is one), safetensors only.

    Nothing is fetched. Raises Stop where the folder is not such a model.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    opening = Opening(folder, device, dtype)
    expected = "a diffusers folder with unet/, text_encoder/, tokenizer/ and scheduler/"
    with opened(folder, kind="a diffusion model", expected=expected):
        return DiffusionModel(
            Parts(
                unet=opening.model(UNet2DConditionModel, "unet"),
                text_encoder=opening.encoder(CLIPTextModel, "text_encoder"),
                tokenizer=opening.tokenizer(CLIPTokenizer, "tokenizer"),
                scheduler=unet_scheduler(opening),
                vae=opening.vae(AutoencoderKL) if opening.has("vae") else None,
            )
        )
