from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorax.linear_algebra import (
    overlap_above_chance,
    polar_factor,
    product_norms,
    ridge,
)


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


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


@pytest.mark.parametrize("shape", [(9, 6), (6, 9)], ids=str)
def test_the_polar_factor_is_the_isometry_that_correlates_best(shape: tuple[int, int]) -> None:
    truth = torch.linalg.qr(_random(9, 6).double())[0]
    truth = truth if shape == (9, 6) else truth.T
    there = _random(80, shape[0], seed=1).double()
    here = there @ truth

    found = polar_factor(there.T @ here)

    assert float(((there @ found) * here).sum()) >= float(((there @ truth) * here).sum()) - 1e-9
    if shape == (6, 9):  # then it is the best fit as well
        assert torch.allclose(found, truth, atol=1e-10)
    short = found @ found.T if shape[0] < shape[1] else found.T @ found
    assert torch.allclose(short, torch.eye(6).double(), atol=1e-10)


def test_the_polar_factor_leaves_out_directions_of_pure_rounding() -> None:
    found = polar_factor(torch.diag(torch.tensor([3.0, 1.0, 1e-14])))

    assert torch.allclose(found, torch.diag(torch.tensor([1.0, 1.0, 0.0])).double(), atol=1e-12)
