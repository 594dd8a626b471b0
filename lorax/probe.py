"""What a probe is: inputs that both bases of a pair can be run on, to calibrate a plan and to score a conversion."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from lorax.adapter import Adapter
from lorax.diffusion_model import DiffusionModel


@dataclass(frozen=True, slots=True)
class ProbeSettings:
    """How a probe is drawn: `samples` images by `steps` of DDIM with `guidance`, each under every noise level."""

    prompts: tuple[str, ...]
    samples: int = 16
    timesteps: tuple[int, ...] = (100, 300, 500, 700, 900)
    steps: int = 12
    guidance: float = 2.0
    seed: int = 0

    def identity(self, *parts: str) -> str:
        """Returns the name of the probe that these settings draw from models named by `parts` (fingerprints)."""
        body = json.dumps([asdict(self), *parts], sort_keys=True)
        return hashlib.sha256(body.encode()).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """Noisy latents (n, c, h, w), their timesteps (n,) and prompts (n). Rows with equal `group` show one image."""

    latents: Tensor
    timesteps: Tensor
    prompts: tuple[str, ...]
    group: Tensor

    def batches(self, size: int) -> list[slice]:
        """Returns slices that cover the probe, `size` rows each."""
        return [slice(start, start + size) for start in range(0, len(self.prompts), size)]


@dataclass(frozen=True, slots=True, eq=False)
class ProbeSource:
    """One way of finding inputs. `draw(source, target, adapter, settings)`; adapter is None when none is at hand."""

    name: str
    summary: str
    depends_on_adapter: bool
    draw: Callable[[DiffusionModel, DiffusionModel, Adapter | None, ProbeSettings], Probe]


def prompts_for(settings: ProbeSettings, words: Sequence[str] = ()) -> tuple[str, ...]:
    """Returns one prompt per sample, cycling through the settings' prompts, with an adapter's own words at the end.

    CLIP reads from left to right: words at the end change the style and leave alone how the subject was read.
    """
    chosen = [settings.prompts[index % len(settings.prompts)] for index in range(settings.samples)]
    return tuple(", ".join((prompt, *words)) for prompt in chosen)


def noise_for(model: DiffusionModel, *, count: int, seed: int) -> Tensor:
    """Draws standard normal latents (count, c, h, w) on the CPU, so that every device sees the same ones."""
    return torch.randn((count, *model.latent_shape), generator=torch.Generator().manual_seed(seed))


def look_at(model: DiffusionModel, clean: Tensor, *, prompts: Sequence[str], settings: ProbeSettings) -> Probe:
    """Returns the probe that shows clean latents (n, c, h, w) under each of the settings' noise levels."""
    levels = len(settings.timesteps)
    latents = clean.repeat_interleave(levels, dim=0)
    timesteps = torch.tensor(settings.timesteps, device=clean.device).repeat(len(clean))
    noise = noise_for(model, count=len(latents), seed=settings.seed + 1).to(clean.device)
    return Probe(
        latents=model.add_noise(latents, noise, timesteps=timesteps),
        timesteps=timesteps,
        prompts=tuple(prompt for prompt in prompts for _ in range(levels)),
        group=torch.arange(len(clean)).repeat_interleave(levels),
    )
