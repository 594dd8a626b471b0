"""Algorithms that no installed library computes, held against their papers' formulas written another way."""

from __future__ import annotations

import pytest
import torch
from scipy.fft import dct, idct
from torch import Tensor

from lorax.adapter import SiteShape
from lorax.algorithms import ALGORITHMS
from lorax.algorithms.lora_x import LoRAX
from lorax.algorithms.svdiff import SVDiff
from tests.lorax.algorithms.oracles import read_module


def noise(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (6, 2, 3, 3)])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_svdiff_shifts_the_singular_values_and_keeps_them_above_zero(shape: tuple[int, ...], scale: float) -> None:
    weight = noise(*shape)
    values = torch.linalg.svdvals(weight.flatten(1))
    delta = noise(values.numel(), seed=1)
    delta[-1] = -100.0

    moved = weight + SVDiff(delta, scale, shape[2:] or None).dense(weight)

    told = torch.relu(values + scale * delta).sort(descending=True).values
    torch.testing.assert_close(torch.linalg.svdvals(moved.flatten(1)), told)
    # The singular vectors stay: the moved weight and the weight have one set of them.
    torch.testing.assert_close(
        moved.flatten(1) @ weight.flatten(1).mT, weight.flatten(1) @ moved.flatten(1).mT, rtol=1e-9, atol=1e-9
    )


def test_svdiff_without_shifts_changes_nothing() -> None:
    assert SVDiff(torch.zeros(5), 1.0).dense(noise(7, 5)).abs().max() == 0


def test_lora_x_moves_the_leading_singular_values_only() -> None:
    weight, sigma = noise(7, 5), torch.tensor([0.3, -0.1], dtype=torch.float64)
    values = torch.linalg.svdvals(weight)

    update = LoRAX(sigma, 2.0)

    told = values + torch.cat((2 * sigma, torch.zeros(3, dtype=torch.float64)))
    moved = torch.linalg.svdvals(weight + update.dense(weight))
    torch.testing.assert_close(moved, told.sort(descending=True).values)
    assert update.low_rank_on(weight).rank == 2


def test_foura_without_its_gate_is_a_low_rank_change_of_the_weight() -> None:
    down, up, inputs = noise(3, 10), noise(8, 3, seed=1), noise(4, 10, seed=2)

    update = ALGORITHMS["foura"].decode
    assert update is not None
    change = update({"foura_down": down, "foura_up": up}, 0.5, SiteShape(8, 10)).dense()

    frequencies = torch.from_numpy(dct(inputs.numpy(), norm="ortho"))
    told = 0.5 * torch.from_numpy(idct((frequencies @ down.mT @ up.mT).numpy(), norm="ortho"))
    torch.testing.assert_close(inputs @ change.mT, told)


def test_foura_with_a_gate_is_refused() -> None:
    roles = frozenset({"foura_down", "foura_up", "foura_gate", "alpha"})

    [found] = [algorithm for algorithm in ALGORITHMS.values() if algorithm.claims_roles(roles)]

    assert found.name == "foura_gated"
    assert "every input" in found.refusal


def test_a_whole_change_is_added_as_it_is_whatever_alpha_stands_beside_it() -> None:
    diff = noise(6, 5)

    update = read_module({"diff": diff, "alpha": torch.tensor(3.0)}, SiteShape(6, 5))

    assert torch.equal(update.dense(), diff)
