"""From one dialect to another and back, bit for bit, at the true names and shapes of real base models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lorax.adapter import Adapter, LowRank, Site
from lorax.base_model import BaseModel
from lorax.base_models import known_bases
from lorax.read import AdapterFiles, read_adapter
from lorax.write import write_adapter
from tests.stand_ins.adapter_files import random_adapter

BASES: Mapping[str, BaseModel] = {base.name: base for base in known_bases()}
PAIRS = [
    ("sd1.5", "kohya", "diffusers"),
    ("sd1.5", "diffusers_old", "kohya"),
    ("sd1.5", "comfyui", "lycoris"),
    ("sd2.1", "kohya", "diffusers"),
    ("sdxl", "kohya", "diffusers"),
    ("sdxl", "diffusers", "kohya"),
    ("ssd-1b", "kohya", "diffusers"),
    ("flux1-dev", "kohya", "diffusers"),
    ("flux1-dev", "diffusers", "kohya"),
    ("flux1-dev", "comfyui", "onetrainer"),
    ("sd3.5-large", "diffusers", "kohya"),
    ("hunyuan-video-t2v", "musubi", "diffusers"),
    ("wan2.1-t2v-1.3b", "musubi", "comfyui"),
    ("qwen-image", "musubi", "diffusers"),
    ("tinyllama-1.1b", "peft", "lycoris"),
    ("phi-3-mini", "peft", "lycoris"),
]
LARGEST = 240
"""Sites of an adapter: enough for every kind of module, few enough for a test."""
ATTENTION = dict.fromkeys(["sd1.5", "sd2.1", "sdxl", "ssd-1b"], "attn") | dict.fromkeys(
    ["tinyllama-1.1b", "phi-3-mini"], "layers"
)
"""What the adapters of bases without fused weights patch."""


def some_adapter(base: BaseModel) -> Adapter:
    """An adapter on every attention module or block of the main component, ranks 1 and 2, half precision."""
    match = ATTENTION.get(base.name, "blocks")
    # A fused weight has one scale for all its parts, so parts of several scales could not come back as they were.
    scales = (0.5, 1.0, 2.0) if base.name in ATTENTION else (0.5,)
    made = random_adapter(base, match=match, ranks=(2, 1, 2, 2, 1), scales=scales, dtype=torch.float16)
    main = next(iter(base.sites)).component
    own = {site: update for site, update in made.updates.items() if site.component == main}
    return replace(made, updates=dict(list(own.items())[:LARGEST]))


def through(adapter: Adapter, base: BaseModel, dialect: str, folder: Path) -> Adapter:
    paths = write_adapter(adapter, folder, dialect=dialect, base=base, stem="trip", metadata={})
    config = next((path for path in paths if path.suffix == ".json"), None)
    found = read_adapter(AdapterFiles(paths[0], config), candidates=[base])
    assert found.dialect == dialect
    return found


def assert_equal_factors(one: Mapping[Site, LowRank], other: Mapping[Site, LowRank]) -> None:
    assert one.keys() == other.keys()
    for site, update in one.items():
        assert torch.equal(update.up, other[site].up), site
        assert torch.equal(update.down, other[site].down), site
        assert update.scale == pytest.approx(other[site].scale, rel=1e-6), site
        assert update.kernel == other[site].kernel, site


@pytest.mark.parametrize(("name", "first", "second"), PAIRS, ids=str)
def test_a_dialect_and_back_gives_the_very_factors(name: str, first: str, second: str, tmp_path: Path) -> None:
    base = BASES[name]
    start = through(some_adapter(base), base, first, tmp_path / "start")

    there = through(start, base, second, tmp_path / "there")
    back = through(there, base, first, tmp_path / "back")

    assert len(start.updates) > 100
    assert_equal_factors(start.low_rank(), back.low_rank())
    for site, update in start.low_rank().items():
        torch.testing.assert_close(applied(there.low_rank()[site]), applied(update), rtol=1e-2, atol=1e-2)


def applied(update: LowRank) -> torch.Tensor:
    """What an update does to one vector: cheaper to compare than the whole."""
    vector = torch.linspace(-1, 1, update.columns)
    return update.scale * (update.up @ (update.down @ vector))
