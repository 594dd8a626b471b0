"""Tiny models of the true structure of Wan 2.1, Wan 2.2 and LTX-Video, held against diffusers' own pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from lorax.checkpoint import open_checkpoint
from lorax.errors import Stop
from lorax.flow_model import VideoModel
from lorax.load_model import load_model
from lorax.picture_model import noise_for
from lorax.probe import ProbeSettings
from tests.stand_ins.tiny_pipelines import PROMPTS, adapter_for, make_ltx, make_wan, merge, predicted

SIZE = 32  # which the pipeline of LTX-Video asks multiples of
MAKERS: dict[str, Any] = {
    "Wan 2.1": make_wan,
    "Wan 2.2": lambda folder, seed: make_wan(folder, seed=seed, boundary=0.5),
    "LTX-Video": make_ltx,
    "LTX-Video 0.9.1": lambda folder, seed: make_ltx(folder, seed=seed, timestep_conditioning=True),
}
FAMILIES = {"Wan 2.1": "wan", "Wan 2.2": "wan", "LTX-Video": "ltx-video", "LTX-Video 0.9.1": "ltx-video"}


class EqualSteps(FlowMatchEulerDiscreteScheduler):
    """Is Euler's method on equal steps of sigma, which Wan's pipeline does not ask for by itself."""

    def set_timesteps(self, steps: int, device: Any = None) -> None:
        super().set_timesteps(sigmas=torch.linspace(1, 1 / steps, steps).tolist(), device=device)


@pytest.fixture(scope="module", params=sorted(MAKERS))
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Any]:
    folder = tmp_path_factory.mktemp("video") / "tiny-video"
    return request.param, folder, MAKERS[request.param](folder, seed=1)


def opened(folder: Path, **how: Any) -> VideoModel[Any]:
    model = load_model(folder, **how)
    assert isinstance(model, VideoModel)
    model.pixels, model.frames = SIZE, 9
    return model


def test_a_folder_is_of_the_family_whose_structure_it_has(base: tuple[str, Path, Any]) -> None:
    assert open_checkpoint(base[1], name="tiny").base.family == FAMILIES[base[0]]


def test_the_same_noise_becomes_the_video_that_the_pipeline_of_diffusers_draws(base: tuple[str, Path, Any]) -> None:
    name, folder, pipeline = base
    model = opened(folder)
    noise = noise_for(model, count=2, seed=5)
    if name.startswith("Wan"):
        pipeline.scheduler = EqualSteps(shift=3.0)

    def drawn(kind: str) -> Any:
        size = {"height": SIZE, "width": SIZE, "num_frames": 9, "max_sequence_length": 16, "num_inference_steps": 4}
        given = noise if name.startswith("Wan") else noise.flatten(2).mT
        return pipeline(prompt=list(PROMPTS), latents=given, guidance_scale=3.0, output_type=kind, **size).frames

    latents = model.sample(PROMPTS, noise, steps=4, guidance=3.0)
    wanted = drawn("latent")
    assert torch.allclose(latents, wanted if name.startswith("Wan") else wanted.mT.reshape(noise.shape), atol=1e-4)
    frames = torch.as_tensor(drawn("np"))[:, [0, 4, 8]].flatten(0, 1) * 255
    images = model.to_images(latents)
    assert (images.shape, images.dtype, model.pictures) == ((6, SIZE, SIZE, 3), torch.uint8, 3)
    assert (images.float() - frames).abs().max() <= 0.51


def test_a_patched_model_answers_as_one_with_the_update_in_its_weights(base: tuple[str, Path, Any]) -> None:
    model = opened(base[1])
    found = {site.component for site in open_checkpoint(base[1], name="tiny").base.sites}
    assert found == ({"transformer", "transformer_2"} if base[0] == "Wan 2.2" else {"transformer"})
    adapter = adapter_for(base[1], components=tuple(found))
    plain = predicted(model)
    with model.patched(adapter):
        patched = predicted(model)
    assert torch.equal(predicted(model), plain)
    merge(model, adapter)

    assert not torch.allclose(patched[0], plain[0], atol=1e-3)
    assert not torch.allclose(patched[1], plain[1], atol=1e-3)
    assert torch.allclose(patched, predicted(model), atol=1e-4)


def test_each_of_two_transformers_answers_for_its_own_noise(tmp_path: Path) -> None:
    make_wan(tmp_path / "two", seed=1, boundary=0.5)
    model = opened(tmp_path / "two")
    plain = predicted(model)  # at timesteps 100 and 700
    for component, changed in (("transformer", 1), ("transformer_2", 0)):
        with model.patched(adapter_for(tmp_path / "two", components=(component,))):
            found = predicted(model)
        assert not torch.allclose(found[changed], plain[changed], atol=1e-3)
        assert torch.equal(found[1 - changed], plain[1 - changed])


def test_an_adapter_that_changes_nothing_draws_the_same_video(base: tuple[str, Path, Any]) -> None:
    model = opened(base[1])
    noise = noise_for(model, count=2, seed=5)
    plain = model.sample(PROMPTS, noise, steps=2, guidance=2.0)
    with model.patched(adapter_for(base[1], components=("transformer", "transformer_2"), strength=0.0)):
        assert torch.equal(model.sample(PROMPTS, noise, steps=2, guidance=2.0), plain)


def test_a_probe_shows_videos_on_their_way_to_noise(base: tuple[str, Path, Any]) -> None:
    model = opened(base[1])
    settings = ProbeSettings(prompts=PROMPTS, samples=2, timesteps=(0, 999), steps=1, guidance=1.0)
    samples = model.samples(PROMPTS, settings=settings, seed=0)
    probe = model.look_at(samples, prompts=PROMPTS, settings=settings)

    assert torch.equal(probe.latents[::2], samples)
    assert torch.allclose(probe.latents[1::2], noise_for(model, count=4, seed=1)[1::2], atol=1e-2)
    with torch.no_grad():
        assert model.run(probe, slice(0, 3)).shape == (3, samples[0].numel())


def test_in_half_precision_a_model_says_nearly_the_same_in_float32(base: tuple[str, Path, Any]) -> None:
    adapter = adapter_for(base[1], components=("transformer", "transformer_2"))
    whole, half = opened(base[1]), opened(base[1], dtype=torch.bfloat16)
    with whole.patched(adapter), half.patched(adapter):
        wanted, found = predicted(whole), predicted(half)

    assert (half.transformer.proj_out.weight.dtype, found.dtype) == (torch.bfloat16, torch.float32)
    assert 0 < float((found - wanted).norm() / wanted.norm()) < 0.1


def test_a_base_that_wants_a_picture_says_so(tmp_path: Path) -> None:
    make_wan(tmp_path / "i2v", seed=1, image_dim=8, added_kv_proj_dim=24)
    with pytest.raises(Stop, match="wants a picture beside the text"):
        load_model(tmp_path / "i2v")


def test_videos_are_nine_frames_of_512_pixels_where_nothing_else_is_said(
    base: tuple[str, Path, Any],
) -> None:
    model = load_model(base[1])
    assert isinstance(model, VideoModel)
    side = 512 // model.compression[1]
    assert model.latent_shape[1:] == (8 // model.compression[0] + 1, side, side)
