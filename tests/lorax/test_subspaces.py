from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lorax import subspaces
from lorax.subspaces import GRAM_FLOOR, Bases, Subspaces, leading_bases, leading_subspaces
from tests.lorax.spectra import SPECTRA, drawn, energy_outside, spectrum, weight_of

# What a float32 Gram matrix of this size rounds away, as a share of the whole energy: 2 * rank * 1e-7 at most.
ROUNDING = 1e-5


def off_orthonormal(basis: Tensor) -> float:
    return float((basis.double().T @ basis.double() - torch.eye(basis.shape[1])).abs().max())


def test_leading_subspaces_hold_the_energy_asked_for_and_no_direction_more() -> None:
    weight = drawn(40, 24) @ torch.diag(torch.logspace(0, -3, 24))

    found = leading_subspaces(weight, energy=0.9)

    total = weight.square().sum()
    held = (found.left.T @ weight).square().sum()
    one_less = (found.left[:, :-1].T @ weight).square().sum()
    assert held >= 0.9 * total > one_less


def test_all_energy_of_a_full_rank_weight_needs_every_direction() -> None:
    assert leading_subspaces(drawn(12, 9), energy=1.0).rank == 9


def test_a_cap_on_the_rank_is_kept() -> None:
    assert leading_subspaces(drawn(30, 30), energy=0.99, most=5).rank == 5


@given(
    kind=st.sampled_from(SPECTRA),
    rows=st.integers(2, 48),
    columns=st.integers(2, 48),
    exponent=st.sampled_from([-30, -12, 0, 12, 30]),
    energy=st.sampled_from([0.3, 0.9, 0.99, 1.0]),
    most=st.none() | st.integers(1, 48),
    seed=st.integers(0, 99),
)
def test_no_subspace_of_the_same_rank_holds_more_whatever_the_spectrum_the_shape_and_the_size(
    kind: str, rows: int, columns: int, exponent: int, energy: float, most: int | None, seed: int
) -> None:
    unit = weight_of(spectrum(kind, min(rows, columns)), rows, columns, seed=seed)
    truth = torch.linalg.svdvals(unit.double()).square()

    found = leading_subspaces(unit * 10.0**exponent, energy=energy, most=most)

    total, rank = float(truth.sum()), found.rank
    for side, basis in ((unit, found.left), (unit.T, found.right)):
        assert off_orthonormal(basis) < 1e-5
        assert energy_outside(side, basis) <= float(truth[rank:].sum()) + ROUNDING * total
    assert torch.allclose(found.values.double() / 10.0**exponent, truth[:rank].sqrt(), rtol=1e-3, atol=1e-4)
    assert rank <= min(rows, columns, most or rows)
    held, before = float(truth[:rank].sum()), float(truth[: rank - 1].sum())
    assert before <= (energy + ROUNDING) * total
    assert rank == min(rows, columns, most or rows) or held >= (energy - ROUNDING) * total


@pytest.mark.parametrize("shape", [(30, 200), (200, 30), (40, 40)], ids=str)
def test_directions_and_values_are_those_of_an_svd_where_values_lie_apart(shape: tuple[int, int]) -> None:
    weight = weight_of(spectrum("power", min(shape)), *shape)
    left, values, right = torch.linalg.svd(weight.double(), full_matrices=False)

    found = leading_subspaces(weight, energy=0.9, most=12)

    kept = found.rank
    assert torch.allclose(found.values.double(), values[:kept], rtol=1e-5)
    for basis, truth in ((found.left, left[:, :kept]), (found.right, right[:kept].T)):
        assert torch.allclose(basis.double() @ basis.double().T, truth @ truth.T, atol=1e-5)
        assert torch.allclose((basis.double() * truth).sum(0).abs(), torch.ones(kept).double(), atol=1e-5)


@pytest.mark.parametrize("smallest", [2e-2, 1e-3, 1e-5, 1e-9], ids=str)
@pytest.mark.parametrize("shape", [(24, 96), (96, 24)], ids=str)
def test_directions_far_below_the_largest_are_found_as_well(shape: tuple[int, int], smallest: float) -> None:
    # Above the floor of a float32 Gram matrix, above that of a float64 one, and below both.
    values = torch.logspace(0, float(torch.tensor(smallest).log10()), 12, dtype=torch.float64)
    weight = weight_of(values, *shape)
    left, _, right = torch.linalg.svd(weight.double(), full_matrices=False)

    found = leading_subspaces(weight, energy=1.0, most=11)

    # An SVD in float32 resolves a direction to about 1e-7 of the largest value over its own.
    tolerance = max(1e-2 * GRAM_FLOOR[torch.float32], 2e-6 / float(values[10]))
    for basis, truth in ((found.left, left[:, :11]), (found.right, right[:11].T)):
        assert off_orthonormal(basis) < 1e-5
        missed = truth - basis.double() @ (basis.double().T @ truth)
        assert float(torch.linalg.matrix_norm(missed, 2)) < tolerance


@pytest.mark.parametrize("shape", [(60, 1500), (1500, 60)], ids=str)
def test_directions_that_rounding_blurs_are_made_orthonormal(shape: tuple[int, int]) -> None:
    values = torch.cat([torch.ones(15), torch.linspace(0.018, 0.012, 45)]).double()

    found = leading_subspaces(weight_of(values, *shape), energy=1.0, most=59)

    assert max(off_orthonormal(found.left), off_orthonormal(found.right)) < 1e-5


def test_a_weight_with_fewer_directions_than_asked_for_still_has_orthonormal_ones() -> None:
    found = leading_subspaces(drawn(16, 3) @ drawn(3, 64, seed=1), energy=1.0, most=8)

    assert found.rank == 8
    assert max(off_orthonormal(found.left), off_orthonormal(found.right)) < 1e-5


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)], ids=str)
def test_a_weight_of_zeros_has_directions_without_energy(shape: tuple[int, int]) -> None:
    found = leading_subspaces(torch.zeros(*shape), energy=0.99, most=4)

    assert found.values.tolist() == [0.0] * found.rank
    assert max(off_orthonormal(found.left), off_orthonormal(found.right)) < 1e-5


def wide_paths_only(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Makes every weight count as wide, and returns the list in which whole decompositions will be noted."""
    noted: list[str] = []
    eigh, svd = torch.linalg.eigh, torch.linalg.svd

    def noting_eigh(matrix: Tensor) -> object:
        noted.extend(["eigh"] if matrix.shape[0] >= 300 else [])
        return eigh(matrix)

    def noting_svd(matrix: Tensor, *, full_matrices: bool) -> object:
        noted.append("svd")
        return svd(matrix, full_matrices=full_matrices)

    monkeypatch.setattr(subspaces, "EXACT_LIMIT", 100)
    monkeypatch.setattr(torch.linalg, "eigh", noting_eigh)
    monkeypatch.setattr(torch.linalg, "svd", noting_svd)
    return noted


@pytest.mark.parametrize("kind", SPECTRA)
@pytest.mark.parametrize("shape", [(300, 400), (400, 300)], ids=str)
def test_a_wide_weight_misses_no_more_than_promised_and_is_iterated_on_unless_its_values_are_equal_or_noise(
    shape: tuple[int, int], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = weight_of(spectrum(kind, 300), *shape)
    truth = torch.linalg.svdvals(weight.double()).square()
    noted = wide_paths_only(monkeypatch)

    found = leading_subspaces(weight, energy=0.999, most=40)

    assert bool(noted) == (kind in {"flat", "clustered"})
    least = float(truth[found.rank :].sum())
    for side, basis in ((weight, found.left), (weight.T, found.right)):
        assert off_orthonormal(basis) < 1e-5
        assert energy_outside(side, basis) <= 1.01 * least + ROUNDING * float(truth.sum())


def test_a_wide_weight_that_iteration_proves_nothing_of_is_decomposed(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = weight_of(spectrum("gaussian", 300), 300, 300)
    noted = wide_paths_only(monkeypatch)
    monkeypatch.setattr(subspaces, "leading_eigenvectors", lambda *_, **__: None)

    found = leading_subspaces(weight, energy=0.999, most=40)

    assert noted == ["eigh"]
    assert energy_outside(weight, found.left) == pytest.approx(
        float(spectrum("gaussian", 300)[40:].square().sum()), rel=1e-5
    )


def test_energy_is_held_by_a_wide_weight_even_where_the_first_guess_is_too_small(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weight = weight_of(spectrum("gaussian", 300), 300, 300)
    wide_paths_only(monkeypatch)
    monkeypatch.setattr(subspaces, "_FIRST_GUESS", 20)

    found = leading_subspaces(weight, energy=0.5)

    assert found.rank > 20
    assert energy_outside(weight, found.left) <= 0.5 * float(weight.double().square().sum())


@pytest.mark.parametrize("limit", [100, 1000], ids=["iterated", "decomposed"])
def test_the_same_weight_gives_the_same_bytes_whatever_was_drawn_before(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subspaces, "EXACT_LIMIT", limit)
    weight = weight_of(spectrum("power", 300), 300, 310)

    first = leading_subspaces(weight, energy=0.999, most=30)
    torch.manual_seed(123)
    again = leading_subspaces(weight.clone(), energy=0.999, most=30)

    assert torch.equal(first.left, again.left)
    assert torch.equal(first.right, again.right)
    assert torch.equal(first.values, again.values)


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (9, 9)], ids=str)
def test_bases_of_every_direction_span_the_rows_and_columns_without_a_decomposition(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = drawn(*shape)
    for name in ("svd", "eigh"):
        monkeypatch.delattr(torch.linalg, name)

    found = leading_bases(weight, energy=1.0, most=320)

    assert found.rank == min(shape)
    assert torch.allclose(found.left @ (found.left.T @ weight), weight, atol=1e-5)
    assert torch.allclose(weight @ found.right @ found.right.T, weight, atol=1e-5)
    assert max(off_orthonormal(found.left), off_orthonormal(found.right)) < 1e-5
    shorter = found.left if shape[0] <= shape[1] else found.right
    assert torch.equal(shorter, torch.eye(min(shape)))


@pytest.mark.parametrize("energy", [0.7, 1.0])
def test_bases_project_onto_the_same_subspaces_as_the_singular_directions(energy: float) -> None:
    weight = weight_of(spectrum("power", 20), 20, 33)

    bases: Bases = leading_bases(weight, energy=energy, most=7)
    directions: Subspaces = leading_subspaces(weight, energy=energy, most=7)

    assert bases.rank == directions.rank
    for first, second in ((bases.left, directions.left), (bases.right, directions.right)):
        assert torch.allclose(first @ first.T, second @ second.T, atol=1e-5)
