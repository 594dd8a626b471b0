"""Flux.1: a transformer of flow matching over packed latents, told of text by CLIP (pooled) and T5 (states).

Dev was distilled with guidance and is told its strength; schnell is not. Neither is run twice for guidance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lorax.flow_model import FlowModel, flow_refused, flow_scheduler, read_by_t5
from lorax.inventories.known import holds_class
from lorax.opening import Opening, opened
from lorax.pipeline import Pipeline

_PARTS = ("transformer/", "text_encoder/", "text_encoder_2/", "tokenizer/", "tokenizer_2/", "scheduler/", "vae/")


@dataclass(frozen=True, slots=True)
class TextOfTwo:
    """What the encoders say: T5's states (n, tokens, width), and CLIP's pooled text (n, width)."""

    states: Tensor
    pooled: Tensor


@dataclass(frozen=True, slots=True)
class Parts:
    """The objects of diffusers and transformers that make up a base."""

    transformer: Any
    text_encoders: tuple[Any, Any]
    tokenizers: tuple[Any, Any]
    scheduler: Any
    vae: Any


class Flux(FlowModel[TextOfTwo]):
    """A FluxTransformer2DModel with CLIP, T5 and VAE."""

    def __init__(self, parts: Parts) -> None:
        self.transformer, self.vae, self.scheduler = parts.transformer, parts.vae, parts.scheduler
        self.text_encoders, self.tokenizers = parts.text_encoders, parts.tokenizers
        first, second = parts.text_encoders
        super().__init__({"transformer": parts.transformer, "text_encoder": first, "text_encoder_2": second})

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one latent."""
        side = self.pixels // 2 ** (len(self.vae.config.block_out_channels) - 1)
        return int(self.transformer.config.in_channels) // 4, side, side

    @property
    def tokens(self) -> int:
        """Counts the tokens of a latent: one for each square of four places."""
        _, height, width = self.latent_shape
        return (height // 2) * (width // 2)

    def encode(self, prompts: Sequence[str]) -> TextOfTwo:
        """Returns what both encoders say of prompts. Each different prompt is encoded once."""
        distinct = sorted(set(prompts))
        rows = [distinct.index(prompt) for prompt in prompts]
        clip, t5 = self.text_encoders
        length = clip.config.max_position_embeddings
        short = self.tokenizers[0](
            distinct, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).input_ids
        long = read_by_t5(self.tokenizers[1], distinct).input_ids
        pooled: Tensor = clip(short.to(self.device)).pooler_output
        states: Tensor = t5(long.to(self.device))[0]
        return TextOfTwo(states[rows], pooled[rows])

    def branches(self, guidance: float) -> int:
        """Counts one: guidance was distilled into the model."""
        del guidance
        return 1

    def predict(self, latents: Tensor, timesteps: Tensor, *, states: TextOfTwo, guidance: float = 1.0) -> Tensor:
        """Returns the velocity (n, c, h, w) at noisy latents (n, c, h, w) and timesteps (n,), 1000·σ."""
        _, _, height, width = latents.shape
        kind = self.transformer.dtype
        told = torch.full((len(latents),), guidance, device=latents.device)
        found: Tensor = self.transformer(
            hidden_states=packed(latents).to(kind),
            timestep=timesteps.to(kind) / 1000,
            guidance=told if self.transformer.config.guidance_embeds else None,
            pooled_projections=states.pooled,
            encoder_hidden_states=states.states,
            txt_ids=torch.zeros(states.states.shape[1], 3, dtype=kind, device=latents.device),
            img_ids=_places(height // 2, width // 2).to(latents.device, kind),
        ).sample
        return unpacked(found.float(), height=height, width=width)

    def decode(self, latents: Tensor) -> Tensor:
        """Returns pictures (n, channels, h, w), -1 to 1."""
        config = self.vae.config
        pictures: Tensor = self.vae.decode(latents / config.scaling_factor + config.shift_factor).sample
        return pictures.float()


def packed(latents: Tensor) -> Tensor:
    """Returns latents (n, c, h, w) as tokens (n, h/2·w/2, 4c), squares of four places each."""
    count, channels, height, width = latents.shape
    squares = latents.reshape(count, channels, height // 2, 2, width // 2, 2)
    return squares.permute(0, 2, 4, 1, 3, 5).reshape(count, -1, 4 * channels)


def unpacked(tokens: Tensor, *, height: int, width: int) -> Tensor:
    """Returns tokens (n, h/2·w/2, 4c) as latents (n, c, h, w)."""
    squares = tokens.reshape(len(tokens), height // 2, width // 2, -1, 2, 2)
    return squares.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), -1, height, width)


def _places(height: int, width: int) -> Tensor:
    """The place of each token, (height·width, 3): nothing, row, column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3)


def _load(opening: Opening) -> Flux:
    from diffusers import AutoencoderKL, FluxTransformer2DModel
    from transformers import AutoTokenizer, CLIPTextModel, CLIPTokenizer, T5EncoderModel

    with opened(opening.folder, kind="Flux", expected=PIPELINE.expected):
        parts = Parts(
            transformer=opening.model(FluxTransformer2DModel, "transformer"),
            text_encoders=(
                opening.encoder(CLIPTextModel, "text_encoder"),
                opening.encoder(T5EncoderModel, "text_encoder_2"),
            ),
            tokenizers=(
                opening.tokenizer(CLIPTokenizer, "tokenizer"),
                opening.tokenizer(AutoTokenizer, "tokenizer_2"),
            ),
            scheduler=flow_scheduler(opening),
            vae=opening.vae(AutoencoderKL),
        )
    return Flux(parts)


PIPELINE = Pipeline(
    name="Flux",
    summary="Flux.1 dev and schnell: a transformer of flow matching with CLIP and T5",
    parts=_PARTS,
    fits=holds_class("transformer", "FluxTransformer2DModel"),
    load=_load,
    refused=flow_refused,
)
