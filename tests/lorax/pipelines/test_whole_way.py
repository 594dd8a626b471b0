"""A pair of each kind goes the whole way: both bases are run, a plan is calibrated, an adapter moved and scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lorax.checkpoint import open_checkpoint
from lorax.convert import Conversion, convert_adapters
from lorax.flow_model import FlowModel
from lorax.prepare import prepare_plan
from lorax.probe import ProbeSettings
from lorax.score import ScoreBench
from tests.stand_ins.tiny_pipelines import SSD, adapter_for, later, make_flux, make_sdxl, make_wan

SETTINGS = ProbeSettings(prompts=("a digit", "bold style, one"), samples=4, timesteps=(100, 500, 900), steps=2)
MAKERS: dict[str, Any] = {
    "Stable Diffusion XL": make_sdxl,
    "SSD-1B": lambda folder, seed: make_sdxl(folder, seed=seed, **SSD),
    "Flux": make_flux,
    "Wan": make_wan,
}
MUTE = dict.fromkeys(("Stable Diffusion XL", "SSD-1B"), ("text_encoder", "1"))
"""The last layer of SDXL's first encoder: states are taken before it, so nothing that is said depends on it."""


@pytest.mark.parametrize("kind", MAKERS)
def test_an_adapter_is_moved_by_a_calibrated_plan_and_scored(
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
    card = ScoreBench.open(source, target, settings=SETTINGS).score(adapter, {"converted": converted.adapter})

    assert {site.target for site in plan.sites if site.term is None} == {
        site
        for site in bases[1].base.sites
        if MUTE.get(kind) == (site.component, site.path.rpartition(".layers.")[2][0])
    }
    figures = card.figures["converted"]
    assert figures["divergence_gain"].value > 0.5
    assert figures["effect_cosine"].value > 0.8
