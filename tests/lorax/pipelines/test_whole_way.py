"""A pair of each kind goes the whole way: a plan is calibrated, an adapter moved, scored, and refreshed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lorax.checkpoint import open_checkpoint
from lorax.convert import Conversion, convert_adapters
from lorax.flow_model import FlowModel
from lorax.prepare import prepare_plan
from lorax.probe import ProbeSettings
from lorax.refresh import RefreshSettings, refresh
from lorax.score import ScoreBench
from tests.stand_ins.tiny_pipelines import SSD, adapter_for, later, make_flux, make_sdxl, make_wan

SETTINGS = ProbeSettings(prompts=("a digit", "bold style, one"), samples=4, timesteps=(100, 500, 900), steps=2)
QUICK = RefreshSettings(SETTINGS, samples=6, held_out=4, steps=10, batch=6, rate=1e-2, warm_up=3, neutral=4)
MAKERS: dict[str, Any] = {
    "Stable Diffusion XL": make_sdxl,
    "SSD-1B": lambda folder, seed: make_sdxl(folder, seed=seed, **SSD),
    "Flux": make_flux,
    "Wan": make_wan,
}
MUTE = dict.fromkeys(("Stable Diffusion XL", "SSD-1B"), ("text_encoder", "1"))
"""The last layer of SDXL's first encoder: states are taken before it, so nothing that is said depends on it."""


@pytest.mark.parametrize("kind", MAKERS)
def test_an_adapter_is_moved_by_a_calibrated_plan_scored_and_refreshed(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FlowModel, "pixels", 16)
    source, target = tmp_path / "tiny-v1", tmp_path / "tiny-v2"
    later(MAKERS[kind](source, seed=1), target, seed=2)
    bases = [open_checkpoint(folder, name=folder.name) for folder in (source, target)]
    adapter = adapter_for(source, components=tuple({site.component for site in bases[0].base.sites}))

    plan = prepare_plan(bases[0], bases[1], method="calibrated", settings={}, probe=SETTINGS)
    [converted] = convert_adapters(plan, [adapter])
    assert isinstance(converted, Conversion)
    bench = ScoreBench.open(source, target, settings=SETTINGS)
    card = bench.score(adapter, {"converted": converted.adapter})

    assert {site.target for site in plan.sites if site.term is None} == {
        site
        for site in bases[1].base.sites
        if MUTE.get(kind) == (site.component, site.path.rpartition(".layers.")[2][0])
    }
    figures = card.figures["converted"]
    assert figures["divergence_gain"].value > 0.5
    assert figures["effect_cosine"].value > 0.8

    weak = {site: replace(update, scale=0.3 * update.scale) for site, update in adapter.updates.items()}
    found = refresh(bench.source, bench.target, adapter, replace(adapter, updates=weak), QUICK)
    assert found.best.gain > found.start.gain + 0.1
