from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler

from lorax.diffusion_model import DiffusionModel, Parts
from lorax.errors import Stop
from tests.stand_ins.pairs import Pair, lineage  # noqa: F401 - a fixture


def small_vae(seed: int = 0, **settings: Any) -> AutoencoderKL:
    torch.manual_seed(seed)
    sizes = {"block_out_channels": (8,), "norm_num_groups": 4, "latent_channels": 1, "sample_size": 8}
    return AutoencoderKL(**{**sizes, **settings})


def model(pair: Pair, **parts: Any) -> DiffusionModel:
    found = pair.source_model
    plain = Parts(found.unet, found.text_encoder, found.tokenizer, found.scheduler)
    return DiffusionModel(replace(plain, **parts))


def test_an_encoder_saved_in_half_precision_and_another_decoder_are_the_same_latents(
    lineage: Pair,  # noqa: F811
) -> None:
    vae = small_vae()
    other = copy.deepcopy(vae).half().float()
    for weight in other.decoder.parameters():
        weight.data.mul_(2)

    model(lineage, vae=vae).require_comparable(model(lineage, vae=other))


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"vae": None}, "only one of them has a VAE"),
        ({"vae": small_vae(scaling_factor=0.13)}, "scale latents differently"),
        ({"vae": small_vae(seed=1)}, "encode pictures differently"),
        ({"vae": small_vae(block_out_channels=(16,))}, "built differently"),
        (
            {"vae": small_vae(), "scheduler": DDIMScheduler(clip_sample=False, prediction_type="v_prediction")},
            "predict different things",
        ),
        (
            {"vae": small_vae(), "scheduler": DDIMScheduler(clip_sample=False, beta_end=0.03)},
            "different schedules of noise",
        ),
    ],
)
def test_models_that_see_different_pictures_are_told_apart(
    parts: dict[str, Any],
    said: str,
    lineage: Pair,  # noqa: F811
) -> None:
    with pytest.raises(Stop, match=said):
        model(lineage, vae=small_vae()).require_comparable(model(lineage, **parts))
