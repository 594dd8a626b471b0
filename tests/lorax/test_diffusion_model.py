from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lorax.adapter import Adapter, LowRank, Site
from lorax.algorithms.full import Full
from lorax.diffusion_model import DiffusionModel, load_diffusion_model
from lorax.errors import Stop
from tests.stand_ins.pairs import Pair, lineage  # noqa: F401 - fixture
from tests.stand_ins.tiny_bases import make_adapter, weight_of

PROMPTS = ("a digit", "bold style, a digit")


def output(model: DiffusionModel) -> torch.Tensor:
    with torch.no_grad():
        latents = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))
        return model.predict(latents, torch.tensor([100, 700]), states=model.encode(PROMPTS))


def merge(model: DiffusionModel, adapter: Adapter, sign: float) -> None:
    for site, update in adapter.updates.items():
        weight_of(model, site).data.add_(sign * update.dense())


@pytest.mark.parametrize("match", ["attn", "conv", "text_model", "proj_in", ""])
def test_a_patched_model_answers_as_one_with_the_dense_update_in_its_weights(lineage: Pair, match: str) -> None:  # noqa: F811
    model, adapter = lineage.source_model, make_adapter(lineage.source.base, match=match)
    plain = output(model)

    with model.patched(adapter):
        patched = output(model)
    merge(model, adapter, 1.0)
    merged = output(model)
    merge(model, adapter, -1.0)

    assert not torch.allclose(patched, plain, atol=1e-3)
    assert torch.allclose(patched, merged, atol=1e-4)


def test_a_model_is_itself_again_after_a_patch_even_when_the_block_fails(lineage: Pair) -> None:  # noqa: F811
    model, adapter = lineage.source_model, make_adapter(lineage.source.base)
    plain = output(model)

    with pytest.raises(RuntimeError, match="on purpose"), model.patched(adapter):
        raise RuntimeError("on purpose")

    assert torch.equal(output(model), plain)


def test_an_update_that_fits_no_module_is_an_error_and_not_silence(lineage: Pair) -> None:  # noqa: F811
    stray = {Site("unet", "nowhere.to_q"): LowRank(torch.ones(4, 1), torch.ones(1, 4), scale=1.0)}
    adapter = replace(make_adapter(lineage.source.base), updates=stray)

    with pytest.raises(KeyError, match=r"nowhere\.to_q"), lineage.source_model.patched(adapter):
        pass


def test_sampling_is_the_same_for_the_same_noise(lineage: Pair) -> None:  # noqa: F811
    model = lineage.source_model
    noise = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))

    first, second = (model.sample(PROMPTS, noise, steps=2, guidance=2.0) for _ in range(2))

    assert torch.equal(first, second)
    images = model.to_images(first)
    assert images.shape == (2, 8, 8, 1)
    assert images.dtype == torch.uint8


def test_a_folder_that_is_no_model_is_refused_with_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(Stop, match="unet/"):
        load_diffusion_model(tmp_path)


@pytest.mark.parametrize("match", ["attn1", "conv"])
def test_an_update_that_is_no_product_patches_as_it_would_be_merged(lineage: Pair, match: str) -> None:  # noqa: F811
    model, thin = lineage.source_model, make_adapter(lineage.source.base, match=match)
    whole = replace(thin, updates={site: Full(update.dense(), update.kernel) for site, update in thin.updates.items()})

    with model.patched(thin):
        expected = output(model)
    with model.patched(whole):
        patched = output(model)

    assert torch.allclose(patched, expected, atol=1e-4)
    assert not torch.allclose(patched, output(model), atol=1e-3)


def test_changes_of_biases_and_norms_are_there_for_the_block_and_gone_to_the_bit(lineage: Pair) -> None:  # noqa: F811
    model, adapter = lineage.source_model, make_adapter(lineage.source.base, match="attn1")
    sites = [site for site in lineage.source.base.vectors if site.path.startswith("mid_block.resnets.0.")]
    vectors = {site: torch.full((lineage.source.base.vectors[site],), 0.37) for site in sites}
    plain, before = output(model), {name: tensor.clone() for name, tensor in model.unet.state_dict().items()}

    with model.patched(replace(adapter, updates={}, vectors=vectors)):
        patched = output(model)

    assert {site.path.rpartition(".")[2] for site in sites} == {"weight", "bias"}
    assert not torch.allclose(patched, plain, atol=1e-3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.unet.state_dict().items())
    assert torch.equal(output(model), plain)
