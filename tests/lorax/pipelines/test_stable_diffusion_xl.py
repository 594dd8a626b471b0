"""Tiny models of the true structure of SDXL and SSD-1B, held against diffusers' own pipeline."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lorax import picture_model
from lorax.adapter import Adapter
from lorax.checkpoint import open_checkpoint
from lorax.errors import Stop
from lorax.load_model import load_model, load_pair
from lorax.picture_model import PictureModel, noise_for
from lorax.probe import ProbeSettings
from tests.stand_ins.tiny_pipelines import PROMPTS, SSD, adapter_for, make_sdxl, merge, predicted

PARTS = ("unet", "text_encoder", "text_encoder_2")


@pytest.fixture(scope="module", params=[{}, SSD], ids=["SDXL", "SSD-1B"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("xl") / "tiny-xl"
    return folder, make_sdxl(folder, seed=1, **request.param)


def opened(folder: Path, **how: Any) -> PictureModel[Any]:
    model = load_model(folder, **how)
    assert isinstance(model, PictureModel)
    return model


def test_a_folder_is_of_the_family_whose_structure_it_has(base: tuple[Path, Any]) -> None:
    folder, pipeline = base
    pruned = pipeline.unet.config.mid_block_type == "UNetMidBlock2D"
    assert open_checkpoint(folder, name="tiny").base.family == ("ssd-1b" if pruned else "stable-diffusion-xl")


def test_prompts_are_encoded_as_the_pipeline_of_diffusers_encodes_them(base: tuple[Path, Any]) -> None:
    folder, pipeline = base
    with torch.no_grad():
        states, _, pooled, _ = pipeline.encode_prompt([*PROMPTS, PROMPTS[0]], do_classifier_free_guidance=False)
        found = opened(folder).encode([*PROMPTS, PROMPTS[0]])  # type: ignore[attr-defined]

    assert torch.allclose(found.states, states, atol=1e-6)
    assert torch.allclose(found.pooled, pooled, atol=1e-6)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_same_noise_becomes_the_picture_that_the_pipeline_of_diffusers_draws(
    guidance: float, base: tuple[Path, Any]
) -> None:
    folder, pipeline = base
    model = opened(folder)
    noise = noise_for(model, count=2, seed=5)

    def drawn(kind: str) -> Any:
        given = {"prompt": list(PROMPTS), "latents": noise, "num_inference_steps": 3, "guidance_scale": guidance}
        return pipeline(**given, output_type=kind).images

    latents = model.sample(PROMPTS, noise, steps=3, guidance=guidance)
    assert torch.allclose(latents, drawn("latent"), atol=1e-4)
    pixels = torch.from_numpy(drawn("np")) * 255
    assert (model.to_images(latents).float() - pixels).abs().max() <= 0.51


@pytest.mark.parametrize("blank", [True, False])
def test_what_stands_for_no_prompt_is_what_the_base_says(blank: bool, base: tuple[Path, Any], tmp_path: Path) -> None:  # noqa: FBT001
    folder, pipeline = base
    other = tmp_path / "base"
    shutil.copytree(folder, other)
    index = other / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "force_zeros_for_empty_prompt": blank}))
    negative = None if blank else ["", ""]
    with torch.no_grad():
        _, states, _, pooled = pipeline.encode_prompt(list(PROMPTS), negative_prompt=negative)
        found = opened(other).encode_both(PROMPTS)  # type: ignore[attr-defined]

    assert torch.allclose(found.states[2:], states, atol=1e-6)
    assert torch.allclose(found.pooled[2:], pooled, atol=1e-6)


@pytest.mark.parametrize("components", [("unet",), ("text_encoder",), ("text_encoder_2",), PARTS], ids="+".join)
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
    adapter = adapter_for(base[0], components=PARTS, strength=0.0)

    plain = model.sample(PROMPTS, noise, steps=2, guidance=2.0)
    with model.patched(adapter):
        assert torch.equal(model.sample(PROMPTS, noise, steps=2, guidance=2.0), plain)


def test_in_half_precision_a_model_says_nearly_the_same_in_float32(base: tuple[Path, Any]) -> None:
    adapter = adapter_for(base[0], components=PARTS)
    whole, half = opened(base[0]), opened(base[0], dtype=torch.bfloat16)
    with whole.patched(adapter), half.patched(adapter):
        wanted, found = predicted(whole), predicted(half)

    assert half.unet.dtype == torch.bfloat16  # type: ignore[attr-defined]
    assert found.dtype == torch.float32
    assert 0 < float((found - wanted).norm() / wanted.norm()) < 0.1


def test_sdxl_and_what_was_distilled_from_it_see_the_same_pictures(tmp_path: Path) -> None:
    make_sdxl(tmp_path / "whole", seed=1)
    make_sdxl(tmp_path / "pruned", seed=1, **SSD)
    shutil.rmtree(tmp_path / "pruned" / "vae")
    shutil.copytree(tmp_path / "whole" / "vae", tmp_path / "pruned" / "vae")

    source, target = load_pair(tmp_path / "whole", tmp_path / "pruned")

    assert predicted(source).shape == predicted(target).shape  # type: ignore[arg-type]


def refused(folder: Path) -> str:
    with pytest.raises(Stop) as caught:
        load_model(folder)
    return str(caught.value)


def test_a_base_that_cannot_be_run_says_why(tmp_path: Path) -> None:
    make_sdxl(tmp_path / "base", seed=1)
    config = tmp_path / "base" / "unet" / "config.json"
    said = json.loads(config.read_text())
    config.write_text(json.dumps({**said, "in_channels": 9}))
    assert "takes 9 channels and gives 4" in refused(tmp_path / "base")
    config.write_text(json.dumps(said))
    (tmp_path / "base" / "scheduler" / "scheduler_config.json").write_text(
        json.dumps({"_class_name": "EDMEulerScheduler"})
    )
    assert "EDMEulerScheduler has another kind of noise" in refused(tmp_path / "base")
    shutil.rmtree(tmp_path / "base" / "tokenizer_2")
    assert "it lacks tokenizer_2/" in refused(tmp_path / "base")
    shutil.rmtree(tmp_path / "base" / "text_encoder")
    assert "a transformers folder: Flux with transformer/," in refused(tmp_path / "base")


def test_a_scheduler_that_says_nothing_of_clipping_does_not_clip(tmp_path: Path) -> None:
    from diffusers import EulerDiscreteScheduler

    make_sdxl(tmp_path / "base", seed=1)
    shutil.rmtree(tmp_path / "base" / "scheduler")
    EulerDiscreteScheduler(beta_schedule="scaled_linear").save_pretrained(tmp_path / "base" / "scheduler")

    sampler: Any = opened(tmp_path / "base").sampler(4)

    assert (sampler.config.clip_sample, sampler.config.beta_schedule) == (False, "scaled_linear")


def test_the_adapter_reaches_every_site_that_it_names(base: tuple[Path, Any]) -> None:
    model = opened(base[0])
    adapter: Adapter = adapter_for(base[0], components=PARTS)
    assert {site.component for site in adapter.updates} == set(PARTS)
    assert [site for site in adapter.updates if model.module(site) is None] == []


def test_what_is_too_much_at_once_is_done_in_parts(base: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened(base[0])
    settings = ProbeSettings(prompts=PROMPTS, samples=3, timesteps=(100, 700), steps=2, guidance=2.0)
    prompts = (*PROMPTS, PROMPTS[0])
    seen: list[int] = []

    def drawn_and_run() -> tuple[torch.Tensor, torch.Tensor]:
        handle = model.unet.register_forward_pre_hook(lambda _unet, given: seen.append(len(given[0])))  # type: ignore[attr-defined]
        samples = model.samples(prompts, settings=settings, seed=0)
        probe = model.look_at(samples, prompts=prompts, settings=settings)
        with torch.no_grad():
            found = model.run(probe, slice(1, 6))
        handle.remove()
        return samples, found

    whole = drawn_and_run()
    assert set(seen) == {6, 5}
    seen.clear()
    monkeypatch.setattr(picture_model, "POSITIONS", 2 * 8 * 8)
    parts = drawn_and_run()
    assert set(seen) == {2, 1}
    assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(whole, parts, strict=True))
