"""own-samples: images that source+adapter draws itself, for the adapter's own words."""

from __future__ import annotations

from lorax.adapter import Adapter
from lorax.diffusion_model import DiffusionModel
from lorax.probe import Probe, ProbeSettings, ProbeSource, look_at, noise_for, prompts_for


def draw(source: DiffusionModel, _target: DiffusionModel, adapter: Adapter | None, settings: ProbeSettings) -> Probe:
    """Samples source+adapter on its trigger words, then noises what came out."""
    prompts = prompts_for(settings, adapter.trigger_words if adapter is not None else ())
    noise = noise_for(source, count=len(prompts), seed=settings.seed)
    with source.patched(adapter):
        clean = source.sample(prompts, noise, steps=settings.steps, guidance=settings.guidance)
    return look_at(source, clean, prompts=prompts, settings=settings)


PROBE = ProbeSource(
    "own-samples", "images drawn by source+adapter for the adapter's own words", depends_on_adapter=True, draw=draw
)
