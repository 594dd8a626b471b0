from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lorax import subspace_iteration
from lorax.subspace_iteration import TOLERANCE, Ritz, leading_eigenvectors, missed_energy, working_width
from tests.lorax.spectra import SPECTRA, drawn, spectrum, weight_of


def gram_of(kind: str, size: int, *, seed: int = 0) -> Tensor:
    weight = weight_of(spectrum(kind, size), size, size, seed=seed).double()
    return weight @ weight.T


def ritz(gram: Tensor, basis: Tensor) -> Ritz:
    image = gram @ basis
    squares, turn = torch.linalg.eigh(basis.T @ image)
    return Ritz(basis @ turn.flip(1), squares.flip(0), image @ turn.flip(1))


@given(
    kind=st.sampled_from(SPECTRA),
    size=st.integers(12, 60),
    share=st.floats(0.05, 0.5),
    steps=st.integers(0, 6),
    seed=st.integers(0, 99),
)
def test_a_subspace_never_misses_more_than_the_bound_says(
    kind: str, size: int, share: float, steps: int, seed: int
) -> None:
    rank = max(1, int(share * size))
    gram = gram_of(kind, size, seed=seed)
    basis = drawn(size, min(size, rank + 6), seed=seed).double()
    for _ in range(steps):
        basis = gram @ torch.linalg.qr(basis)[0]
    found = ritz(gram, torch.linalg.qr(basis)[0])

    bound = missed_energy(gram, found, rank, enough=math.inf)

    best = torch.linalg.eigvalsh(gram).flip(0)[:rank].sum()
    assert float(best - found.squares[:rank].sum()) <= bound + 1e-12 * float(gram.trace())


def test_the_bound_is_small_where_the_subspace_is_nearly_right() -> None:
    gram = gram_of("power", 60)
    exact = torch.linalg.eigh(gram)[1].flip(1)[:, :20]
    found = ritz(gram, torch.linalg.qr(exact + 1e-4 * drawn(60, 20).double())[0])

    missed = float(torch.linalg.eigvalsh(gram).flip(0)[:10].sum() - found.squares[:10].sum())

    assert 0 < missed <= missed_energy(gram, found, 10, enough=math.inf) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", ["gaussian", "power", "outliers"])
def test_what_is_returned_holds_what_the_best_subspace_holds_but_for_the_tolerance(
    kind: str, dtype: torch.dtype
) -> None:
    gram = gram_of(kind, 240)
    truth = torch.linalg.eigvalsh(gram).flip(0)

    found = leading_eigenvectors(gram.to(dtype), lambda _: 30, most=30)

    assert found is not None
    vectors = found[0].double()
    held = float((vectors * (gram @ vectors)).sum())
    assert held >= float(truth[:30].sum()) - TOLERANCE * float(truth[30:].sum()) - 1e-5 * float(truth.sum())
    assert torch.allclose(vectors.T @ vectors, torch.eye(30).double(), atol=1e-5)
    assert (found[1].diff() <= 0).all()


def test_nothing_is_returned_where_nothing_was_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    gram = gram_of("gaussian", 240)
    assert leading_eigenvectors(gram, lambda _: 30, most=30) is not None

    monkeypatch.setattr(subspace_iteration, "missed_energy", lambda *_, **__: math.inf)

    assert leading_eigenvectors(gram, lambda _: 30, most=30) is None


def test_the_rank_follows_the_values_found() -> None:
    gram = gram_of("outliers", 240)

    found = leading_eigenvectors(gram, lambda values: int((values > 0.5).sum()), most=30)

    assert found is not None
    assert found[1].tolist() == pytest.approx([1.0, 1.0, 1.0], rel=1e-4)


def test_more_directions_are_worked_on_than_are_asked_for() -> None:
    assert working_width(10) == 42
    assert working_width(1000) == 1300
