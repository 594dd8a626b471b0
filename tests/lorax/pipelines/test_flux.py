"""Tiny models of the true structure of Flux.1 dev and schnell, held against diffusers' own pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lorax.checkpoint import open_checkpoint
from lorax.errors import Stop
from lorax.load_model import load_model
from lorax.picture_model import noise_for
from lorax.pipelines.flux import Flux, packed, unpacked
from lorax.probe import ProbeSettings
from tests.stand_ins.tiny_pipelines import PROMPTS, adapter_for, make_flux, make_sdxl, merge, predicted

PARTS = ("transformer", "text_encoder", "text_encoder_2")
SIDE = 8


@pytest.fixture(scope="module", params=[True, False], ids=["dev", "schnell"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("flux") / "tiny-flux"
    return folder, make_flux(folder, seed=1, guidance_embeds=request.param)


def opened(folder: Path, **how: Any) -> Flux:
    model = load_model(folder, **how)
    assert isinstance(model, Flux)
    model.pixels = 2 * SIDE  # the tiny VAE halves them
    return model


def test_a_folder_is_of_the_family_whose_structure_it_has(base: tuple[Path, Any]) -> None:
    model = opened(base[0])
    assert open_checkpoint(base[0], name="tiny").base.family == "flux"
    assert (model.latent_shape, model.tokens) == ((4, SIDE, SIDE), SIDE * SIDE // 4)


def test_latents_are_drawn_at_half_a_thousand_pixels_where_nothing_else_is_said(base: tuple[Path, Any]) -> None:
    model = load_model(base[0])
    assert isinstance(model, Flux)
    assert model.latent_shape == (4, 256, 256)


def test_latents_are_packed_as_diffusers_packs_them(base: tuple[Path, Any]) -> None:
    latents = torch.randn(2, 4, 6, 6)
    assert torch.equal(packed(latents), base[1]._pack_latents(latents, 2, 4, 6, 6))
    assert torch.equal(unpacked(packed(latents), height=6, width=6), latents)


def test_prompts_are_encoded_as_the_pipeline_of_diffusers_encodes_them(base: tuple[Path, Any]) -> None:
    with torch.no_grad():
        states, pooled, _ = base[1].encode_prompt(list(PROMPTS), max_sequence_length=16)
        found = opened(base[0]).encode(PROMPTS)

    assert torch.allclose(found.states, states, atol=1e-6)
    assert torch.allclose(found.pooled, pooled, atol=1e-6)


def test_the_same_noise_becomes_the_picture_that_the_pipeline_of_diffusers_draws(base: tuple[Path, Any]) -> None:
    model = opened(base[0])
    noise = noise_for(model, count=2, seed=5)

    def drawn(kind: str) -> Any:
        size = {"height": 2 * SIDE, "width": 2 * SIDE, "max_sequence_length": 16, "num_inference_steps": 3}
        given = {"prompt": list(PROMPTS), "latents": packed(noise), "guidance_scale": 3.5}
        return base[1](**given, **size, output_type=kind).images

    latents = model.sample(PROMPTS, noise, steps=3, guidance=3.5)
    assert torch.allclose(packed(latents), drawn("latent"), atol=1e-4)
    pixels = torch.from_numpy(drawn("np")) * 255
    assert (model.to_images(latents).float() - pixels).abs().max() <= 0.51


def test_only_a_base_that_was_distilled_with_guidance_is_told_of_it(base: tuple[Path, Any]) -> None:
    model = opened(base[0])
    weak, strong = predicted(model, guidance=1.0), predicted(model, guidance=7.0)
    assert torch.equal(weak, strong) != model.transformer.config.guidance_embeds
    assert model.branches(7.0) == 1


def test_a_probe_is_told_the_guidance_that_its_pictures_were_drawn_with(base: tuple[Path, Any]) -> None:
    model = opened(base[0])
    settings = ProbeSettings(prompts=PROMPTS, samples=2, timesteps=(0, 400), steps=1, guidance=5.0)
    samples = model.samples(PROMPTS, settings=settings, seed=0)
    probe = model.look_at(samples, prompts=PROMPTS, settings=settings)
    with torch.no_grad():
        found = model.run(probe, slice(0, 4))
        states = model.encode(probe.prompts)
        wanted = model.predict(probe.latents, probe.timesteps, states=states, guidance=5.0)

    assert torch.equal(found, wanted.flatten(1))
    assert torch.equal(probe.latents[::2], samples)
    # 0.6 of the picture, 0.4 of the noise
    noise = noise_for(model, count=4, seed=settings.seed + 1)[1::2]
    assert torch.allclose(probe.latents[1::2], 0.6 * samples + 0.4 * noise, atol=1e-6)


@pytest.mark.parametrize("components", [*((part,) for part in PARTS), PARTS], ids="+".join)
def test_a_patched_model_answers_as_one_with_the_update_in_its_weights(
    components: tuple[str, ...], base: tuple[Path, Any]
) -> None:
    model, adapter = opened(base[0]), adapter_for(base[0], components=components)
    plain = predicted(model)
    with model.patched(adapter):
        patched = predicted(model)
    assert torch.equal(predicted(model), plain)
    merge(model, adapter)

    assert not torch.allclose(patched, plain, atol=1e-3)
    assert torch.allclose(patched, predicted(model), atol=1e-4)


def test_an_adapter_that_changes_nothing_draws_the_same_pictures(base: tuple[Path, Any]) -> None:
    model = opened(base[0])
    noise = noise_for(model, count=2, seed=5)
    plain = model.sample(PROMPTS, noise, steps=2, guidance=2.0)
    with model.patched(adapter_for(base[0], components=PARTS, strength=0.0)):
        assert torch.equal(model.sample(PROMPTS, noise, steps=2, guidance=2.0), plain)


def test_in_half_precision_a_model_says_nearly_the_same_in_float32(base: tuple[Path, Any]) -> None:
    adapter = adapter_for(base[0], components=PARTS)
    whole, half = opened(base[0]), opened(base[0], dtype=torch.bfloat16)
    with whole.patched(adapter), half.patched(adapter):
        wanted, found = predicted(whole), predicted(half)

    assert (half.transformer.dtype, half.vae.dtype, found.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    assert 0 < float((found - wanted).norm() / wanted.norm()) < 0.1


def test_pictures_of_a_u_net_and_of_a_flow_do_not_compare(base: tuple[Path, Any], tmp_path: Path) -> None:
    make_sdxl(tmp_path / "xl", seed=1)
    other: Any = load_model(tmp_path / "xl")
    with pytest.raises(Stop, match=r"predict different things \(flow and epsilon\)"):
        opened(base[0]).require_comparable(other)


def test_a_base_that_wants_more_than_noise_and_text_says_so(tmp_path: Path) -> None:
    make_flux(tmp_path / "fill", seed=1, out_channels=4)
    with pytest.raises(Stop, match="takes 16 channels and gives 4"):
        load_model(tmp_path / "fill")


def test_a_scheduler_of_another_kind_of_noise_is_refused(tmp_path: Path) -> None:
    make_flux(tmp_path / "base", seed=1)
    said = {"_class_name": "DDIMScheduler"}
    (tmp_path / "base" / "scheduler" / "scheduler_config.json").write_text(json.dumps(said))
    with pytest.raises(Stop, match="its scheduler DDIMScheduler is none of flow matching"):
        load_model(tmp_path / "base")
