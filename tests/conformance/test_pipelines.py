"""What every kind of pipeline has to keep, on a tiny base of its own. A new file in the folder is tested too."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lorax.checkpoint import open_checkpoint
from lorax.errors import Stop
from lorax.flow_model import FlowModel
from lorax.load_model import load_model
from lorax.pipelines import PIPELINES, why_not
from lorax.probe import ProbeSettings
from tests.stand_ins.tiny_bases import make_base
from tests.stand_ins.tiny_pipelines import make_flux, make_ltx, make_sdxl, make_wan
from tests.stand_ins.tiny_texts import make_text_base

MAKERS: dict[str, Callable[..., Any]] = {
    "Flux": make_flux,
    "LTX-Video": make_ltx,
    "Stable Diffusion": make_base,
    "Stable Diffusion XL": make_sdxl,
    "Wan": make_wan,
    "language models": make_text_base,
}
SETTINGS = ProbeSettings(prompts=("a digit", "one"), samples=2, timesteps=(100, 700), steps=1, length=8)


@pytest.fixture(scope="module", params=sorted(PIPELINES))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("pipelines") / "base"
    MAKERS[kind](base, seed=1)
    return base


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FlowModel, "pixels", 32)


def test_a_kind_says_what_it_is_and_what_it_needs(kind: str) -> None:
    assert PIPELINES[kind].summary
    assert PIPELINES[kind].expected.startswith(f"{kind} with ")


def test_a_folder_is_of_one_kind_only(kind: str, folder: Path) -> None:
    assert [name for name, pipeline in PIPELINES.items() if pipeline.fits(folder)] == [kind]
    assert why_not(folder) == ""


def test_every_site_of_a_base_is_a_module_of_the_running_model(folder: Path) -> None:
    sites = open_checkpoint(folder, name="base").base.sites
    model = load_model(folder)
    modules = {site: model.module(site) for site in sites}
    assert {site for site, module in modules.items() if module is None} == set()
    shapes = {site: tuple(getattr(module, "weight", torch.empty(0)).shape) for site, module in modules.items()}
    assert shapes == {site: shape.weight_shape for site, shape in sites.items()}


def test_the_same_samples_are_drawn_again_and_outputs_are_finite_rows_in_float32(folder: Path) -> None:
    model = load_model(folder)
    first, second = (model.samples(SETTINGS.prompts, settings=SETTINGS, seed=3) for _ in range(2))
    half = model.samples(SETTINGS.prompts, settings=SETTINGS, seed=3, rows=slice(1, 2))
    probe = model.look_at(first, prompts=SETTINGS.prompts, settings=SETTINGS)
    with torch.no_grad():
        found = torch.cat([model.run(probe, rows) for rows in probe.batches(3)])

    assert torch.equal(first, second)
    assert torch.allclose(half.float(), first[1:].float(), atol=1e-4)
    assert (found.dtype, found.dim(), len(found)) == (torch.float32, 2, len(probe.group))
    assert torch.isfinite(found).all()


def test_a_folder_that_lacks_a_part_is_refused_with_its_name(kind: str, folder: Path, tmp_path: Path) -> None:
    for part in PIPELINES[kind].parts:
        if part in {"unet/", "transformer/", "text_encoder/", "config.json"}:
            continue  # what tells the kind itself
        cut = tmp_path / part.strip("/") / "base"
        shutil.copytree(folder, cut)
        shutil.rmtree(cut / part)
        with pytest.raises(Stop, match=rf"it lacks {part}; expected is {kind} with "):
            load_model(cut)
