"""LTX-Video, text to video: a transformer of flow matching over latents of several frames, told of text by T5."""

from __future__ import annotations

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
_TOKENS, _FRAMES_A_SECOND = 128, 25


@dataclass(frozen=True, slots=True)
class MaskedText:
    """What T5 says: states (n, tokens, width), and which of them are of the prompt (n, tokens)."""

    states: Tensor
    mask: Tensor


@dataclass(frozen=True, slots=True)
class Parts:
    """The objects of diffusers and transformers that make up a base."""

    transformer: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    vae: Any


class LTXVideo(VideoModel[MaskedText]):
    """An LTXVideoTransformer3DModel with T5 and VAE, at 25 frames a second."""

    def __init__(self, parts: Parts) -> None:
        self.transformer, self.vae, self.scheduler = parts.transformer, parts.vae, parts.scheduler
        self.text_encoder, self.tokenizer = parts.text_encoder, parts.tokenizer
        self.compression = (
            int(parts.vae.temporal_compression_ratio),
            int(parts.vae.spatial_compression_ratio),
        )
        super().__init__({"transformer": parts.transformer, "text_encoder": parts.text_encoder})

    @property
    def tokens(self) -> int:
        """Counts the tokens that a latent becomes: one for each place."""
        _, frames, height, width = self.latent_shape
        return frames * height * width

    def encode(self, prompts: Sequence[str]) -> MaskedText:
        """Returns what T5 says of prompts. Each different prompt is encoded once."""
        distinct = sorted(set(prompts))
        rows = [distinct.index(prompt) for prompt in prompts]
        read = read_by_t5(self.tokenizer, distinct, most=_TOKENS)
        states: Tensor = self.text_encoder(read.input_ids.to(self.device))[0]
        return MaskedText(states[rows], read.attention_mask.bool().to(self.device)[rows])

    def predict(self, latents: Tensor, timesteps: Tensor, *, states: MaskedText, guidance: float = 1.0) -> Tensor:
        """Returns the velocity (n, c, f, h, w) at noisy latents (n, c, f, h, w) and timesteps (n,), 1000·σ."""
        del guidance
        over_time, over_space = self.compression
        _, _, frames, height, width = latents.shape
        found: Tensor = self.transformer(
            hidden_states=latents.flatten(2).mT.to(self.transformer.dtype),
            encoder_hidden_states=states.states.to(self.transformer.dtype),
            timestep=timesteps,
            encoder_attention_mask=states.mask,
            num_frames=frames,
            height=height,
            width=width,
            rope_interpolation_scale=(over_time / _FRAMES_A_SECOND, over_space, over_space),
        ).sample
        return found.float().mT.reshape(latents.shape)

    def decode_videos(self, latents: Tensor) -> Tensor:
        """Returns videos (n, channels, frames, h, w), -1 to 1, of clean latents (n, c, f, h, w)."""
        mean, std = (each.view(1, -1, 1, 1, 1) for each in (self.vae.latents_mean, self.vae.latents_std))
        clean = latents * std / self.vae.config.scaling_factor + mean
        # Later decoders take away the last of the noise; there is none in what is decoded here.
        noise = torch.zeros(len(latents), device=latents.device) if self.vae.config.timestep_conditioning else None
        videos: Tensor = self.vae.decode(clean, noise).sample
        return videos


def _load(opening: Opening) -> LTXVideo:
    from diffusers import AutoencoderKLLTXVideo, LTXVideoTransformer3DModel
    from transformers import AutoTokenizer, T5EncoderModel

    with opened(opening.folder, kind="LTX-Video", expected=PIPELINE.expected):
        parts = Parts(
            transformer=opening.model(LTXVideoTransformer3DModel, "transformer"),
            text_encoder=opening.encoder(T5EncoderModel, "text_encoder"),
            tokenizer=opening.tokenizer(AutoTokenizer, "tokenizer"),
            scheduler=flow_scheduler(opening),
            vae=opening.vae(AutoencoderKLLTXVideo),
        )
    return LTXVideo(parts)


def _refused(folder: Path) -> str:
    config = read_config(folder / "transformer" / "config.json")
    patches = {name: config.get(name, 1) for name in ("patch_size", "patch_size_t")}
    if any(size != 1 for size in patches.values()):
        return f"its transformer takes patches of several places ({patches})"
    return flow_refused(folder)


PIPELINE = Pipeline(
    name="LTX-Video",
    summary="LTX-Video, text to video: a transformer of flow matching with T5, looked at by three frames",
    parts=_PARTS,
    fits=holds_class("transformer", "LTXVideoTransformer3DModel"),
    load=_load,
    refused=_refused,
)
