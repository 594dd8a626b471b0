"""neutral: images that the two plain bases draw for neutral prompts, half each. Calibrates plans; shows drift."""

from __future__ import annotations

import torch

from lorax.adapter import Adapter
from lorax.diffusion_model import DiffusionModel
from lorax.probe import Probe, ProbeSettings, ProbeSource, look_at, noise_for, prompts_for


def draw(source: DiffusionModel, target: DiffusionModel, _adapter: Adapter | None, settings: ProbeSettings) -> Probe:
    """Samples source base and target base on the same prompts and noise, taking every other sample from each."""
    prompts = prompts_for(settings)
    noise = noise_for(source, count=len(prompts), seed=settings.seed)
    clean = torch.empty_like(noise, device=source.device)
    for model, rows in ((source, slice(0, None, 2)), (target, slice(1, None, 2))):
        if prompts[rows]:
            drawn = model.sample(prompts[rows], noise[rows], steps=settings.steps, guidance=settings.guidance)
            clean[rows] = drawn.to(clean.device)
    return look_at(source, clean, prompts=prompts, settings=settings)


PROBE = ProbeSource(
    "neutral", "images drawn by the two plain bases for neutral prompts", depends_on_adapter=False, draw=draw
)
