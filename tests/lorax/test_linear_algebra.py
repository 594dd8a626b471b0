from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorax.linear_algebra import leading_subspaces, overlap_above_chance, product_norms, ridge


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_leading_subspaces_hold_the_energy_asked_for_and_no_direction_more() -> None:
    weight = _random(40, 24) @ torch.diag(torch.logspace(0, -3, 24))

    found = leading_subspaces(weight, energy=0.9)

    total = weight.square().sum()
    held = (found.left.T @ weight).square().sum()
    one_less = (found.left[:, :-1].T @ weight).square().sum()
    assert held >= 0.9 * total > one_less


def test_all_energy_of_a_full_rank_weight_needs_every_direction() -> None:
    assert leading_subspaces(_random(12, 9), energy=1.0).rank == 9


def test_a_cap_on_the_rank_is_kept() -> None:
    assert leading_subspaces(_random(30, 30), energy=0.99, most=5).rank == 5


def test_the_overlap_of_a_subspace_with_itself_is_one_and_of_random_ones_near_chance() -> None:
    first = torch.linalg.qr(_random(200, 40, seed=1))[0]
    second = torch.linalg.qr(_random(200, 40, seed=2))[0]

    assert overlap_above_chance(first, first) == pytest.approx(1.0, abs=1e-6)
    assert abs(overlap_above_chance(first, second)) < 0.03


def test_ridge_without_strength_is_least_squares_and_with_much_of_it_is_the_prior() -> None:
    inputs, wanted, prior = _random(50, 6).double(), _random(50, 4, seed=1).double(), _random(6, 4, seed=2)
    gram, cross = inputs.T @ inputs, inputs.T @ wanted

    loose = ridge(gram, cross, strength=1e-12)
    tight = ridge(gram, cross, strength=1e9, prior=prior)

    assert torch.allclose(loose, torch.linalg.lstsq(inputs, wanted).solution.float(), atol=1e-5)
    assert torch.allclose(tight, prior, atol=1e-5)


@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 12), st.integers(0, 99))
def test_the_norm_of_a_product_is_that_of_the_dense_one(out: int, rank: int, columns: int, seed: int) -> None:
    up, down = _random(out, rank, seed=seed), _random(rank, columns, seed=seed + 1)

    assert product_norms([(up, down)]) == [pytest.approx(float((up @ down).norm()), rel=1e-4, abs=1e-5)]


def test_norms_come_back_in_the_order_of_the_pairs_whatever_their_shapes() -> None:
    pairs = [(_random(4, rank, seed=rank), _random(rank, 5, seed=rank + 9)) for rank in (2, 1, 2, 3, 1)]

    expected = [pytest.approx(float((up @ down).norm()), rel=1e-5) for up, down in pairs]

    assert product_norms(pairs) == expected
