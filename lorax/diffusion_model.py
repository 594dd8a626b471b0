"""A loaded diffusion base: a U-Net with its text encoder, tokenizer and scheduler.

diffusers and transformers only load and run the modules; they are imported when a model is loaded, not before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from lorax.errors import Stop
from lorax.geometry import SQUARED, Geometry
from lorax.latent_space import difference
from lorax.probe import Probe, ProbeSettings, slices
from lorax.running_model import RunningModel


@dataclass(frozen=True, slots=True)
class Parts:
    """The objects of diffusers and transformers that make up a base; vae is None where pictures are not latents."""

    unet: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    vae: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class LatentProbe:
    """Noisy latents (n, c, h, w), their timesteps (n,) and prompts (n). Rows with equal `group` show one image."""

    latents: Tensor
    timesteps: Tensor
    prompts: tuple[str, ...]
    group: Tensor

    def batches(self, size: int) -> list[slice]:
        """Returns slices that cover the probe, `size` rows each."""
        return slices(len(self.prompts), size)


class DiffusionModel(RunningModel):
    """A U-Net with its text encoder, tokenizer and scheduler, float32, on one device, never trained here."""

    kind: ClassVar[str] = "diffusion"
    geometry: ClassVar[Geometry] = SQUARED

    def __init__(self, parts: Parts) -> None:
        self.unet, self.text_encoder, self.vae = parts.unet, parts.text_encoder, parts.vae
        self.tokenizer, self.scheduler = parts.tokenizer, parts.scheduler
        super().__init__({"unet": self.unet, "text_encoder": self.text_encoder})

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one latent."""
        size = int(self.unet.config.sample_size)
        return int(self.unet.config.in_channels), size, size

    def run(self, probe: Probe, rows: slice) -> Tensor:
        """Returns the predicted noise (n, c·h·w) for noisy latents."""
        shown = cast("LatentProbe", probe)
        states = self.encode(shown.prompts[rows])
        output = self.predict(shown.latents[rows], shown.timesteps[rows], states=states)
        return output.flatten(1).float()

    def samples(
        self, prompts: Sequence[str], *, settings: ProbeSettings, seed: int, rows: slice = slice(None)
    ) -> Tensor:
        """Returns clean latents (n, c, h, w) drawn for prompts[rows]; equal rows see equal noise in every model."""
        if not any(prompts):
            raise Stop(
                'the probe has no prompts; a diffusion model draws for some: prompts = ["a photograph of a harbour"]'
            )
        noise = noise_for(self, count=len(prompts), seed=seed)[rows]
        if not len(noise):
            return noise.to(self.device)
        return self.sample(prompts[rows], noise, steps=settings.steps, guidance=settings.guidance)

    def given(self, settings: ProbeSettings) -> Tensor | None:
        """Returns None: a probe of a diffusion model brings no pictures."""
        del settings
        return None

    def look_at(self, samples: Tensor, *, prompts: Sequence[str], settings: ProbeSettings) -> LatentProbe:
        """Returns the probe that shows clean latents (n, c, h, w) under each of the settings' noise levels."""
        levels = len(settings.timesteps)
        latents = samples.to(self.device).repeat_interleave(levels, dim=0)
        timesteps = torch.tensor(settings.timesteps, device=latents.device).repeat(len(samples))
        noise = noise_for(self, count=len(latents), seed=settings.seed + 1).to(latents.device)
        return LatentProbe(
            latents=self.add_noise(latents, noise, timesteps=timesteps),
            timesteps=timesteps,
            prompts=tuple(prompt for prompt in prompts for _ in range(levels)),
            group=torch.arange(len(samples)).repeat_interleave(levels),
        )

    def shown_anew(self, settings: ProbeSettings, *, generator: torch.Generator) -> ProbeSettings:
        """Returns settings with other noise and as many levels, one in each of so many parts of the schedule."""
        parts = len(settings.timesteps)
        drawn = (torch.arange(parts) + torch.rand(parts, generator=generator)) / parts
        levels = tuple((drawn * self.scheduler.config.num_train_timesteps).int().tolist())
        seed = int(torch.randint(1 << 31, (), generator=generator))
        return replace(settings, timesteps=levels, seed=seed)

    def pulls(
        self, output: Tensor, probe: Probe, rows: slice, *, count: int, generator: torch.Generator
    ) -> list[Tensor]:
        """Returns random directions in the space of pictures, standard normal."""
        del probe, rows
        return [torch.randn(output.shape, generator=generator).to(output.device) for _ in range(count)]

    def require_comparable(self, other: RunningModel) -> None:
        """Raises Stop for models of another kind, with other latents or schedules, or that predict another thing."""
        if not isinstance(other, DiffusionModel):
            raise Stop(f"a diffusion model and a {other.kind} model cannot be run on the same inputs")
        if self.latent_shape != other.latent_shape:
            seen = " and ".join("x".join(map(str, model.latent_shape)) for model in (self, other))
            raise Stop(f"the two bases have latents of different shape ({seen}), so they cannot see the same picture")
        if reason := difference(self, other):
            raise Stop(
                f"the outputs of the two bases cannot be compared: {reason}. Choose a method that needs weights only"
            )

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

    def predict(self, latents: Tensor, timesteps: Tensor, *, states: Tensor) -> Tensor:
        """Returns the U-Net's output (n, c, h, w) for noisy latents (n, c, h, w) at integer timesteps (n,)."""
        found: Tensor = self.unet(latents, timesteps, encoder_hidden_states=states).sample
        return found

    def add_noise(self, latents: Tensor, noise: Tensor, *, timesteps: Tensor) -> Tensor:
        """Returns latents noised to the given timesteps (n,), by the model's own schedule."""
        noised: Tensor = self.scheduler.add_noise(latents, noise, timesteps)
        return noised

    @torch.no_grad()
    def sample(self, prompts: Sequence[str], noise: Tensor, *, steps: int, guidance: float) -> Tensor:
        """Returns clean latents (n, c, h, w) drawn by DDIM from given noise; guidance 1 runs one branch only."""
        from diffusers import DDIMScheduler

        scheduler: Any = DDIMScheduler.from_config(self.scheduler.config)
        scheduler.set_timesteps(steps)
        guided = guidance != 1.0
        states = self.encode(list(prompts) + ([""] * len(prompts) if guided else []))
        latents = noise.to(self.device)
        for step in scheduler.timesteps:
            batch = torch.cat([latents, latents]) if guided else latents
            output = self.predict(batch, step.expand(len(batch)).to(self.device), states=states)
            if guided:
                wanted, plain = output.chunk(2)
                output = plain + guidance * (wanted - plain)
            latents = scheduler.step(output, step, latents).prev_sample
        return latents

    @torch.no_grad()
    def to_images(self, latents: Tensor) -> Tensor:
        """Returns pixels (n, h, w, channels) as uint8; through the VAE where the base has one."""
        if self.vae is not None:
            latents = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        pixels = ((latents.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).cpu()


def noise_for(model: DiffusionModel, *, count: int, seed: int) -> Tensor:
    """Draws standard normal latents (count, c, h, w) on the CPU, so that every device sees the same ones."""
    return torch.randn((count, *model.latent_shape), generator=torch.Generator().manual_seed(seed))


def load_diffusion_model(folder: Path, *, device: str = "cpu") -> DiffusionModel:
    """Opens a diffusers folder (unet, text_encoder, tokenizer, scheduler, vae where there is one), safetensors only.

    Nothing is fetched. Raises Stop where the folder is not such a model.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # one bar per part and load would tear up the run's own

    weights: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "torch_dtype": torch.float32}
    try:
        unet: Any = UNet2DConditionModel.from_pretrained(folder / "unet", **weights)
        text_encoder: Any = CLIPTextModel.from_pretrained(
            folder / "text_encoder", local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
        vae: Any = AutoencoderKL.from_pretrained(folder / "vae", **weights) if (folder / "vae").is_dir() else None
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
    except (OSError, ValueError) as error:
        raise Stop(
            f"{folder} cannot be opened as a diffusion model: {error}. Expected a diffusers folder with unet/, "
            "text_encoder/, tokenizer/ and scheduler/, weights as safetensors."
        ) from error
    unet, text_encoder, vae = (part.eval().to(device) if part else None for part in (unet, text_encoder, vae))
    return DiffusionModel(Parts(unet, text_encoder, tokenizer, scheduler, vae))
