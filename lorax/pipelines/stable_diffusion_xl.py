"""Stable Diffusion XL and what was pruned from it (SSD-1B, Segmind Vega): a U-Net with two CLIP text encoders.

Podell et al., arXiv 2307.01952: the states before the last layer of both encoders side by side; the second one's pooled
text and the size of the picture are added to the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorax.inventories.known import read_config
from lorax.inventories.unet_pipelines import unet_config
from lorax.opening import Opening, opened
from lorax.pipeline import Pipeline
from lorax.unet_model import UNetModel, unet_refused, unet_scheduler

_PARTS = ("unet/", "text_encoder/", "text_encoder_2/", "tokenizer/", "tokenizer_2/", "scheduler/")
_PIXELS = 8
"""Pixels of a latent's side where no VAE says how many."""


@dataclass(frozen=True, slots=True)
class TwoEncoders:
    """What both encoders say: states (n, tokens, width) side by side, and the pooled text (n, width)."""

    states: Tensor
    pooled: Tensor


@dataclass(frozen=True, slots=True)
class Parts:
    """The objects that make up a base; blank: where there is no prompt, zeros stand for what encoders would say."""

    unet: Any
    text_encoders: tuple[Any, Any]
    tokenizers: tuple[Any, Any]
    scheduler: Any
    vae: Any = None
    blank: bool = True


class StableDiffusionXL(UNetModel[TwoEncoders]):
    """A U-Net with two text encoders. Pictures are of the model's own size, nothing of them cropped."""

    def __init__(self, parts: Parts) -> None:
        self.unet, self.vae, self.scheduler = parts.unet, parts.vae, parts.scheduler
        self.text_encoders, self.tokenizers, self._blank = parts.text_encoders, parts.tokenizers, parts.blank
        first, second = parts.text_encoders
        super().__init__({"unet": parts.unet, "text_encoder": first, "text_encoder_2": second})

    def encode(self, prompts: Sequence[str]) -> TwoEncoders:
        """Returns what both encoders say of prompts. Each different prompt is encoded once."""
        distinct = sorted(set(prompts))
        rows = [distinct.index(prompt) for prompt in prompts]
        states, pooled = [], []
        for tokenizer, encoder in zip(self.tokenizers, self.text_encoders, strict=True):
            length = encoder.config.max_position_embeddings
            tokens = tokenizer(
                distinct, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
            ).input_ids
            found = encoder(tokens.to(self.device), output_hidden_states=True)
            states.append(found.hidden_states[-2])
            pooled.append(found[0])
        return TwoEncoders(torch.cat(states, dim=-1)[rows], pooled[1][rows])

    def encode_both(self, prompts: Sequence[str]) -> TwoEncoders:
        """Returns what the U-Net is told of prompts, and after them as often of none: zeros for most of these bases."""
        if not self._blank:
            return super().encode_both(prompts)
        found = self.encode(list(prompts))
        return TwoEncoders(*(torch.cat([each, torch.zeros_like(each)]) for each in (found.states, found.pooled)))

    def predict(self, latents: Tensor, timesteps: Tensor, *, states: TwoEncoders, guidance: float = 1.0) -> Tensor:
        """Returns the U-Net's output (n, c, h, w) for noisy latents (n, c, h, w) at integer timesteps (n,)."""
        del guidance
        found: Tensor = self.unet(
            latents.to(self.unet.dtype),
            timesteps,
            encoder_hidden_states=states.states,
            added_cond_kwargs={"text_embeds": states.pooled, "time_ids": self._sizes(len(latents))},
        ).sample
        return found.float()

    def _sizes(self, count: int) -> Tensor:
        """Original size, what was cropped, size wanted, (count, 6), all in pixels."""
        _, height, width = self.latent_shape
        factor = _PIXELS if self.vae is None else 2 ** (len(self.vae.config.block_out_channels) - 1)
        size = [factor * height, factor * width]
        return torch.tensor([[*size, 0, 0, *size]], dtype=self.unet.dtype, device=self.device).repeat(count, 1)


def _fits(folder: Path) -> bool:
    """Whether a U-Net is told of pooled text and sizes, and nothing projects its text states.

    The refiner, which has the second encoder only, is none, since it goes on where another model stopped.
    """
    config = unet_config(folder)
    added = config.get("addition_embed_type") == "text_time" and config.get("encoder_hid_dim_type") is None
    return added and (folder / "text_encoder").is_dir()


def _load(opening: Opening) -> StableDiffusionXL:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    said = read_config(opening.folder / "model_index.json")
    with opened(opening.folder, kind="Stable Diffusion XL", expected=PIPELINE.expected):
        parts = Parts(
            unet=opening.model(UNet2DConditionModel, "unet"),
            text_encoders=(
                opening.encoder(CLIPTextModel, "text_encoder"),
                opening.encoder(CLIPTextModelWithProjection, "text_encoder_2"),
            ),
            tokenizers=(
                opening.tokenizer(CLIPTokenizer, "tokenizer"),
                opening.tokenizer(CLIPTokenizer, "tokenizer_2"),
            ),
            scheduler=unet_scheduler(opening),
            vae=opening.vae(AutoencoderKL) if opening.has("vae") else None,
            blank=said.get("force_zeros_for_empty_prompt", True) is not False,
        )
    return StableDiffusionXL(parts)


PIPELINE = Pipeline(
    name="Stable Diffusion XL",
    summary="Stable Diffusion XL, SSD-1B, Segmind Vega: a U-Net with two CLIP text encoders",
    parts=_PARTS,
    fits=_fits,
    load=_load,
    refused=unet_refused,
)
