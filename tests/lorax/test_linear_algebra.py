from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorax.linear_algebra import (
    EXACT_SVD_LIMIT,
    GRAM_FLOOR,
    leading_subspaces,
    overlap_above_chance,
    polar_factor,
    product_norms,
    randomised_subspaces,
    range_error_factor,
    ridge,
)


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


def _falling(out: int, columns: int, *, power: float = 0.7, seed: int = 0) -> torch.Tensor:
    """Returns a weight whose singular values fall like those of a trained one, by a power law."""
    left, _, right = torch.linalg.svd(_random(out, columns, seed=seed), full_matrices=False)
    return left @ torch.diag(torch.arange(1, min(out, columns) + 1).float() ** -power) @ right


@pytest.mark.parametrize("shape", [(30, 200), (200, 30), (40, 40)], ids=str)
def test_leading_subspaces_are_those_of_an_svd_whichever_way_they_are_found(shape: tuple[int, int]) -> None:
    weight = _falling(*shape)
    left, values, right = torch.linalg.svd(weight.double(), full_matrices=False)

    found = leading_subspaces(weight, energy=0.9, most=12)

    kept = found.rank
    assert torch.allclose(found.values.double(), values[:kept], rtol=1e-5)
    for basis, truth in ((found.left, left[:, :kept]), (found.right, right[:kept].T)):
        assert torch.allclose(basis.double() @ basis.double().T, truth @ truth.T, atol=1e-5)


@pytest.mark.parametrize("shape", [(24, 96), (96, 24)], ids=str)
def test_vectors_from_a_gram_matrix_are_orthonormal_within_the_bound_down_to_its_floor(shape: tuple[int, int]) -> None:
    left, _, right = torch.linalg.svd(_random(*shape), full_matrices=False)
    # The energy asked for needs all but the last direction; the smallest one kept lies above the floor, then below.
    for smallest in (2 * GRAM_FLOOR, 1e-3 * GRAM_FLOOR):
        values = torch.logspace(0, math.log10(smallest), 23)
        weight = left[:, :23] @ torch.diag(values) @ right[:23]

        found = leading_subspaces(weight, energy=0.999999, most=23)

        bound = 24 * torch.finfo(torch.float64).eps / GRAM_FLOOR**2 + 1e-5
        for basis in (found.left, found.right):
            assert float((basis.T @ basis - torch.eye(found.rank)).abs().max()) < bound
        held = (found.left.T @ weight).square().sum() / weight.square().sum()
        assert held > 0.99999


def test_a_weight_with_fewer_directions_than_asked_for_still_has_orthonormal_ones() -> None:
    weight = _random(16, 3) @ _random(3, 64, seed=1)

    found = leading_subspaces(weight, energy=1.0, most=8)

    assert found.rank == 8
    assert torch.allclose(found.left.T @ found.left, torch.eye(8), atol=1e-5)
    assert torch.allclose(found.right.T @ found.right, torch.eye(8), atol=1e-5)


@pytest.mark.parametrize("power", [0.3, 0.7, 1.5])
@pytest.mark.parametrize("shape", [(200, 300), (300, 200)], ids=str)
def test_a_randomised_range_misses_no_more_than_its_bound(shape: tuple[int, int], power: float) -> None:
    weight = _falling(*shape, power=power)
    values = torch.linalg.svdvals(weight)
    rank = 40

    found = randomised_subspaces(weight, rank=rank)

    rest = float(torch.linalg.matrix_norm(weight - found.left @ (found.left.T @ weight), 2))
    # Cutting the range found to its leading part adds at most one more error of the best size (section 9.4 there).
    assert rest <= (1 + range_error_factor(rank, shorter_side=200)) * float(values[rank])
    assert (found.values <= values[:rank] * (1 + 1e-5)).all()
    assert float(found.values.square().sum() / values[:rank].square().sum()) > 0.98
    for basis in (found.left, found.right):
        assert torch.allclose(basis.T @ basis, torch.eye(rank), atol=1e-5)


def test_directions_that_stand_out_are_found_from_a_random_start() -> None:
    left, right = (torch.linalg.qr(_random(size, 10, seed=size))[0] for size in (150, 170))
    weight = 100 * left @ right.T + 0.01 * _random(150, 170)

    found = randomised_subspaces(weight, rank=10)

    assert overlap_above_chance(found.left, left) > 1 - 1e-5
    assert overlap_above_chance(found.right, right) > 1 - 1e-5


def test_a_weight_wider_than_the_limit_gives_the_same_bytes_whatever_was_drawn_before() -> None:
    wide = EXACT_SVD_LIMIT + 8
    weight = _random(wide, 6) @ _random(6, wide, seed=1)

    found = leading_subspaces(weight, energy=0.999, most=16)
    torch.manual_seed(123)
    again = leading_subspaces(weight, energy=0.999, most=16)

    assert found.rank == 6
    assert torch.equal(found.left, again.left)
    assert torch.equal(found.right, again.right)
    assert float((found.left.T @ weight).square().sum() / weight.square().sum()) > 0.999


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
