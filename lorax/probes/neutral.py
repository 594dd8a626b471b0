"""neutral: samples that the two plain bases draw for neutral prompts, half each, or the text that the settings name.

It calibrates plans and shows drift.
"""

from __future__ import annotations

import torch

from lorax.adapter import Adapter
from lorax.probe import Probe, ProbeSettings, ProbeSource, prompts_for
from lorax.running_model import RunningModel


def draw(source: RunningModel, target: RunningModel, _adapter: Adapter | None, settings: ProbeSettings) -> Probe:
    """Samples source base and target base on the same prompts and noise, taking every other sample from each."""
    prompts = prompts_for(settings)
    given = source.given(settings)
    if given is not None:
        return source.look_at(given, prompts=("",) * len(given), settings=settings)
    drawn = [
        model.samples(prompts, settings=settings, seed=settings.seed, rows=slice(first, None, 2)).to(source.device)
        for first, model in enumerate((source, target))
    ]
    samples = torch.empty((len(prompts), *drawn[0].shape[1:]), dtype=drawn[0].dtype, device=drawn[0].device)
    samples[0::2], samples[1::2] = drawn
    return source.look_at(samples, prompts=prompts, settings=settings)


PROBE = ProbeSource("neutral", "samples drawn by the two plain bases for neutral prompts", draw=draw)
