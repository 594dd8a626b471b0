"""What a kind of pipeline says on a CPU it says on an accelerator. Skips itself where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lorax.flow_model import FlowModel
from lorax.load_model import load_model
from lorax.picture_model import PictureModel, noise_for
from tests.stand_ins.tiny_pipelines import PROMPTS, adapter_for, make_flux, make_ltx, make_sdxl, make_wan, predicted

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator on this machine"),
]
PARTS = ("unet", "transformer", "text_encoder", "text_encoder_2")


def opened(folder: Path, **how: Any) -> PictureModel[Any]:
    model = load_model(folder, **how)
    assert isinstance(model, PictureModel)
    return model


def off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.cpu() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("make", [make_sdxl, make_flux, make_wan, make_ltx])
def test_a_patched_model_says_and_draws_what_it_does_on_a_cpu(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FlowModel, "pixels", 32)
    make(tmp_path / "base", seed=1)
    adapter = adapter_for(tmp_path / "base", components=PARTS)
    here = opened(tmp_path / "base")
    noise = noise_for(here, count=2, seed=5)
    with here.patched(adapter):
        wanted, drawn = predicted(here), here.sample(PROMPTS, noise, steps=2, guidance=2.0)
    for dtype, most in ((torch.float32, 1e-2), (torch.bfloat16, 1e-1)):
        there = opened(tmp_path / "base", device="cuda", dtype=dtype)
        with there.patched(adapter):
            assert off(predicted(there), wanted) < most
            assert off(there.sample(PROMPTS, noise, steps=2, guidance=2.0), drawn) < 2 * most
        assert there.to_images(drawn).shape == here.to_images(drawn).shape
