"""own-samples: what source+adapter draws or writes itself, for the adapter's own words."""

from __future__ import annotations

from lorax.adapter import Adapter
from lorax.probe import Probe, ProbeSettings, ProbeSource, prompts_for
from lorax.running_model import RunningModel


def draw(source: RunningModel, _target: RunningModel, adapter: Adapter | None, settings: ProbeSettings) -> Probe:
    """Samples source+adapter on its trigger words, and shows what came out."""
    prompts = prompts_for(settings, adapter.trigger_words if adapter is not None else ())
    with source.patched(adapter):
        samples = source.samples(prompts, settings=settings, seed=settings.seed)
    return source.look_at(samples, prompts=prompts, settings=settings)


PROBE = ProbeSource(
    "own-samples", "samples drawn by source+adapter for the adapter's own words", depends_on_adapter=True, draw=draw
)
