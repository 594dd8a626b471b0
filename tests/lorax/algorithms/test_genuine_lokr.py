"""A genuine LoKr file of 2023: all of its modules are read, and each fits its weight in Stable Diffusion 1.5."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lorax.adapter import SiteShape
from lorax.algorithms.lokr import LoKr
from lorax.base_models.stable_diffusion import FAMILY
from tests.lorax.algorithms.oracles import LYCORIS_ROLES, by_role, read_module

GENUINE = Path(__file__).resolve().parents[2] / "genuine" / "smart_falcon_lokr.safetensors"


@pytest.fixture(scope="module")
def modules() -> Mapping[str, dict[str, torch.Tensor]]:
    found: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    for name, tensor in load_file(GENUINE).items():
        module, _, suffix = name.partition(".")
        found[module][suffix] = tensor.float()
    return {module: by_role(tensors, LYCORIS_ROLES) for module, tensors in found.items()}


@pytest.fixture(scope="module")
def shapes() -> Mapping[str, SiteShape]:
    [base] = [version for version in FAMILY.versions() if version.name == "sd1.5"]
    prefixes = {"unet": "lora_unet_", "text_encoder": "lora_te_"}
    return {prefixes[site.component] + site.path.replace(".", "_"): shape for site, shape in base.sites.items()}


def test_every_module_fits_its_weight(
    modules: Mapping[str, dict[str, torch.Tensor]], shapes: Mapping[str, SiteShape]
) -> None:
    updates = {module: read_module(tensors, shapes[module]) for module, tensors in modules.items()}

    assert len(updates) == 350
    assert all(isinstance(update, LoKr) and update.rank == 16 for update in updates.values())


def test_its_factors_are_the_kronecker_products(
    modules: Mapping[str, dict[str, torch.Tensor]], shapes: Mapping[str, SiteShape]
) -> None:
    generator = torch.Generator().manual_seed(1)
    # One module of every set of sizes.
    by_size = {tuple(t.shape for t in tensors.values()): module for module, tensors in modules.items()}
    assert len(by_size) > 20
    for module in by_size.values():
        tensors, shape = modules[module], shapes[module]
        inputs = torch.randn(shape.columns, 2, generator=generator)
        first = tensors["lokr_w1_a"] @ tensors["lokr_w1_b"]
        second = tensors["lokr_w2_a"] @ tensors["lokr_w2_b"]
        # Every input as a matrix (columns of A, columns of B): the product applies A on one side, B on the other.
        grid = inputs.T.reshape(2, first.shape[1], second.shape[1])
        told = (first @ grid @ second.T).reshape(2, -1).T * (tensors["alpha"] / 16)

        update = read_module(tensors, shape)
        exact = update.low_rank()

        assert exact is not None
        assert exact.rank == 256
        near = {"rtol": 1e-3, "atol": float(told.abs().max()) * 1e-4}
        torch.testing.assert_close(exact.scale * (exact.up @ (exact.down @ inputs)), told, **near)
        if shape.columns < 1000:
            torch.testing.assert_close(update.dense().flatten(1) @ inputs, told, **near)
