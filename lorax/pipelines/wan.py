"""Wan 2.1 and 2.2, text to video: a transformer of flow matching over latents of several frames, told of text by UMT5.

Wan 2.2 A14B has two of them: `transformer` for noise from a boundary on, `transformer_2` for less.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorax.flow_model import VideoModel, flow_refused, flow_scheduler, read_by_t5
from lorax.inventories.known import holds_class, read_config
from lorax.opening import Opening, opened
from lorax.pipeline import Pipeline

_PARTS = ("transformer/", "text_encoder/", "tokenizer/", "scheduler/", "vae/")


@dataclass(frozen=True, slots=True)
class Parts:
    """The objects of diffusers and transformers that make up a base; second: takes over below the boundary, 0 to 1."""

    transformer: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    vae: Any
    second: Any = None
    boundary: float = 0.0


class Wan(VideoModel[Tensor]):
    """One or two WanTransformer3DModels with UMT5 and VAE."""

    def __init__(self, parts: Parts) -> None:
        self.transformer, self.vae, self.scheduler = parts.transformer, parts.vae, parts.scheduler
        self.text_encoder, self.tokenizer = parts.text_encoder, parts.tokenizer
        self._second, self._boundary = parts.second, 1000 * parts.boundary
        config = parts.vae.config
        self.compression = (int(config.scale_factor_temporal), int(config.scale_factor_spatial))
        denoisers = {"transformer": parts.transformer}
        if parts.second is not None:
            denoisers["transformer_2"] = parts.second
        super().__init__({**denoisers, "text_encoder": parts.text_encoder})

    @property
    def tokens(self) -> int:
        """Counts the tokens that a latent becomes."""
        _, frames, height, width = self.latent_shape
        over_time, high, wide = map(int, self.transformer.config.patch_size)
        return (frames // over_time) * (height // high) * (width // wide)

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Returns text states (n, tokens, width), zero past the end. Each different prompt is encoded once."""
        distinct = sorted(set(prompts))
        read = read_by_t5(self.tokenizer, [_cleaned(prompt) for prompt in distinct])
        mask = read.attention_mask.to(self.device)
        states: Tensor = self.text_encoder(read.input_ids.to(self.device), mask).last_hidden_state
        told = torch.where(mask[..., None] > 0, states, 0.0)
        return told[[distinct.index(prompt) for prompt in prompts]]

    def predict(self, latents: Tensor, timesteps: Tensor, *, states: Tensor, guidance: float = 1.0) -> Tensor:
        """Returns the velocity (n, c, f, h, w) at noisy latents (n, c, f, h, w) and timesteps (n,), 1000·σ."""
        del guidance
        if self._second is None:
            return _velocity(self.transformer, latents, timesteps, states)
        late = timesteps < self._boundary
        found = torch.zeros_like(latents, dtype=torch.float32)
        for denoiser, rows in ((self.transformer, ~late), (self._second, late)):
            if rows.any():
                found[rows] = _velocity(denoiser, latents[rows], timesteps[rows], states[rows])
        return found

    def decode_videos(self, latents: Tensor) -> Tensor:
        """Returns videos (n, channels, frames, h, w), -1 to 1, of clean latents (n, c, f, h, w)."""
        mean, std = (
            torch.tensor(each, device=latents.device).view(1, -1, 1, 1, 1)
            for each in (self.vae.config.latents_mean, self.vae.config.latents_std)
        )
        videos: Tensor = self.vae.decode(latents * std + mean).sample
        return videos


def _velocity(denoiser: Any, latents: Tensor, timesteps: Tensor, states: Tensor) -> Tensor:  # noqa: ANN401 - of diffusers
    found: Tensor = denoiser(
        hidden_states=latents.to(denoiser.dtype), timestep=timesteps, encoder_hidden_states=states.to(denoiser.dtype)
    ).sample
    return found.float()


def _cleaned(prompt: str) -> str:
    """A prompt as Wan was trained on it: no character references, single spaces."""
    return " ".join(html.unescape(html.unescape(prompt)).split())


def _load(opening: Opening) -> Wan:
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from transformers import AutoTokenizer, UMT5EncoderModel

    boundary = read_config(opening.folder / "model_index.json").get("boundary_ratio")
    two = isinstance(boundary, float) and opening.has("transformer_2")
    with opened(opening.folder, kind="Wan", expected=PIPELINE.expected):
        parts = Parts(
            transformer=opening.model(WanTransformer3DModel, "transformer"),
            text_encoder=opening.encoder(UMT5EncoderModel, "text_encoder"),
            tokenizer=opening.tokenizer(AutoTokenizer, "tokenizer"),
            scheduler=flow_scheduler(opening),
            vae=opening.vae(AutoencoderKLWan),
            second=opening.model(WanTransformer3DModel, "transformer_2") if two else None,
            boundary=boundary if isinstance(boundary, float) else 0.0,
        )
    return Wan(parts)


def _refused(folder: Path) -> str:
    if read_config(folder / "transformer" / "config.json").get("image_dim"):
        return "its transformer wants a picture beside the text"
    return flow_refused(folder)


PIPELINE = Pipeline(
    name="Wan",
    summary="Wan 2.1 and 2.2, text to video: a transformer of flow matching with UMT5, looked at by three frames",
    parts=_PARTS,
    fits=holds_class("transformer", "WanTransformer3DModel"),
    load=_load,
    refused=_refused,
)
