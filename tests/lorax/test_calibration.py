from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lorax.adapter import Adapter, Site
from lorax.calibration import as_rows, collect_statistics
from lorax.convert import Conversion, convert_adapters
from lorax.diffusion_model import DiffusionModel
from tests.stand_ins.pairs import SETTINGS, Pair, lineage, open_pair, twins  # noqa: F401 - fixtures
from tests.stand_ins.tiny_bases import make_adapter, make_base, weight_of

FF_OUT = ".ff.net.2"


def test_a_base_against_itself_has_equal_gram_and_cross_products(twins: Pair) -> None:  # noqa: F811
    for site, found in twins.statistics().items():
        assert torch.allclose(found.input_gram, found.input_cross), site
        assert torch.allclose(found.output_gram, found.output_cross), site


def test_what_is_held_out_and_the_rest_are_two_different_halves_of_the_whole(lineage: Pair) -> None:  # noqa: F811
    for site, found in lineage.statistics().items():
        held_out, rest = found.held_out, found.rest()
        assert held_out is not None
        assert rest is not None
        assert held_out.held_out is None
        assert torch.allclose(held_out.plus(rest).output_cross, found.output_cross), site
        assert held_out.input_energy + rest.input_energy == pytest.approx(found.input_energy)
        assert not torch.allclose(held_out.output_cross, rest.output_cross, rtol=0.01), site


def test_energies_are_those_of_the_source(twins: Pair) -> None:  # noqa: F811
    for site, found in twins.statistics().items():
        assert found.input_energy == pytest.approx(float(found.input_gram.trace()), rel=1e-4), site
        assert found.output_energy == pytest.approx(float(found.output_gram.trace()), rel=1e-4), site


def test_every_site_that_the_pictures_reach_has_statistics(twins: Pair) -> None:  # noqa: F811
    assert set(twins.statistics()) == set(twins.target.base.sites)


def test_the_gradient_is_that_of_the_output_with_respect_to_the_module(twins: Pair) -> None:  # noqa: F811
    site = Site("unet", "conv_out")
    probe = twins.probe
    found = collect_statistics(
        twins.source_model, twins.target_model, pairs={site: site}, probe=probe, directions=3, batch=5
    )[site]

    # conv_out's output is the model's output, so its gradient is the random pull itself: unit variance.
    rows = 3 * probe.latents.numel()
    assert float(found.output_gram) / rows == pytest.approx(1.0, rel=0.15)


def test_pictures_become_rows_of_channels() -> None:
    picture = torch.arange(24.0).reshape(1, 2, 3, 4)

    assert as_rows(picture).shape == (12, 2)
    assert torch.equal(as_rows(picture)[5], picture[0, :, 1, 1])
    assert as_rows(torch.zeros(2, 5, 7)).shape == (10, 7)


def shuffle_hidden_units(model: DiffusionModel, folder_adapter: Adapter) -> None:
    """Renumbers the hidden units of every feed-forward: another spelling of the very same function."""
    for site in folder_adapter.updates:
        out = weight_of(model, site)
        width = out.shape[1]
        order = torch.randperm(width, generator=torch.Generator().manual_seed(5))
        proj = model.module(Site(site.component, site.path.replace(".ff.net.2", ".ff.net.0.proj")))
        assert isinstance(proj, torch.nn.Linear)
        both = torch.cat([order, order + width])  # GEGLU: values, then gates
        proj.weight.data = proj.weight.data[both]
        proj.bias.data = proj.bias.data[both]
        out.data = out.data[:, order]


def test_a_hidden_renumbering_of_the_target_is_found_and_undone(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = make_base(tmp_path_factory.mktemp("gauge") / "tiny-v1", seed=1)
    pair = open_pair(folder, folder)
    adapter = make_adapter(pair.source.base, match=FF_OUT, strength=3.0)
    shuffle_hidden_units(pair.target_model, adapter)
    strict = {"stranger_share": 1e-9, "lineage_cosine": 2.0}

    (found,) = convert_adapters(pair.plan("calibrated", strict), [adapter], target=pair.target.base)

    assert isinstance(found, Conversion)
    wanted = effect(pair.source_model, adapter)
    assert relative(effect(pair.target_model, found.adapter), wanted) < 0.02
    assert relative(effect(pair.target_model, replace(adapter)), wanted) > 0.5  # copy misses


def effect(model: DiffusionModel, adapter: Adapter) -> torch.Tensor:
    latents = torch.randn(3, *model.latent_shape, generator=torch.Generator().manual_seed(9))
    times = torch.tensor(SETTINGS.timesteps)
    with torch.no_grad():
        states = model.encode(["a digit", "one", "two"])
        plain = model.predict(latents, times, states=states)
        with model.patched(adapter):
            return model.predict(latents, times, states=states) - plain


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())
