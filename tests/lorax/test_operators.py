from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lorax.operators import (
    Blocks,
    Dense,
    Factored,
    Identity,
    IdentityPlus,
    Operator,
    Projector,
    Scaling,
    cheaper,
    identity_plus,
    kind_of,
    projector,
    random_signed_permutation,
    rebuild,
)


def _examples() -> list[Operator]:
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(6, 2, generator=generator), torch.randn(2, 6, generator=generator)
    return [
        Identity(),
        Dense(left @ right),
        Factored(left, right),
        Projector(left),
        random_signed_permutation(6, generator),
        Scaling(torch.tensor([1.5])),
        IdentityPlus(torch.tensor([0.5]), left, right),
        Blocks(
            torch.randn(3, 2, 2, generator=generator),
            torch.tensor([2, 0, 2], dtype=torch.int32),
            torch.tensor([0, 1, 1], dtype=torch.int32),
            torch.tensor([3, 3], dtype=torch.int32),
        ),
    ]


@pytest.mark.parametrize("operator", _examples(), ids=lambda operator: type(operator).__name__)
def test_an_operator_is_linear_and_survives_being_stored(operator: Operator) -> None:
    matrix = operator.apply(torch.eye(6))
    columns = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))

    again = rebuild(kind_of(operator), operator.tensors())

    assert torch.allclose(operator.apply(columns), matrix @ columns, atol=1e-5)
    assert torch.equal(again.apply(columns), operator.apply(columns))
    assert torch.allclose(operator.apply_rows(columns.T), operator.apply(columns).T, atol=1e-5)


@pytest.mark.parametrize("operator", _examples(), ids=lambda operator: type(operator).__name__)
def test_a_scaled_operator_is_the_same_map_and_so_much_stronger(operator: Operator) -> None:
    assert torch.allclose(_matrix(operator.times(-2.5), 6), -2.5 * _matrix(operator, 6), atol=1e-5)


def test_blocks_stand_where_they_are_said_to_and_add_up_where_they_share_rows() -> None:
    blocks = torch.randn(3, 2, 4)
    rows, columns, parts = (torch.tensor(each, dtype=torch.int32) for each in ([2, 0, 2], [0, 1, 1], [3, 2]))

    matrix = _matrix(Blocks(blocks, rows, columns, parts), 8)

    zeros = torch.zeros(2, 4)
    lines = [[zeros, blocks[1]], [zeros, zeros], [blocks[0], blocks[2]]]
    assert torch.equal(matrix, torch.cat([torch.cat(line, dim=1) for line in lines]))


def test_no_blocks_are_a_map_to_zero() -> None:
    none = Blocks(torch.zeros(0, 2, 4), *(torch.tensor(each, dtype=torch.int32) for each in ([], [], [3, 2])))

    assert torch.equal(_matrix(none, 8), torch.zeros(6, 8))


@pytest.mark.parametrize(("rank", "kind"), [(3, Projector), (4, Dense), (8, Identity)])
def test_a_projector_is_kept_in_the_form_that_costs_less(rank: int, kind: type[Operator]) -> None:
    basis = torch.linalg.qr(torch.randn(8, rank))[0]

    chosen = projector(basis)

    assert type(chosen) is kind
    assert torch.allclose(_matrix(chosen, 8), basis @ basis.T, atol=1e-5)


@pytest.mark.parametrize(("rank", "kind"), [(2, IdentityPlus), (7, Dense)])
def test_an_identity_and_a_product_are_kept_in_the_form_that_costs_less(rank: int, kind: type[Operator]) -> None:
    left, right = torch.randn(8, rank), torch.randn(rank, 8)

    chosen = identity_plus(left, right)

    assert type(chosen) is kind
    assert torch.allclose(_matrix(chosen), torch.eye(8) + left @ right, atol=1e-5)


@given(st.integers(1, 40), st.integers(0, 1000))
def test_a_signed_permutation_keeps_every_singular_value(size: int, seed: int) -> None:
    operator = random_signed_permutation(size, torch.Generator().manual_seed(seed))

    matrix = operator.apply(torch.eye(size))

    assert torch.equal(matrix @ matrix.T, torch.eye(size))


def test_the_same_seed_draws_the_same_permutation() -> None:
    first, second = (random_signed_permutation(32, torch.Generator().manual_seed(3)) for _ in range(2))

    assert torch.equal(first.order, second.order)
    assert torch.equal(first.sign, second.sign)


@pytest.mark.parametrize(("rank", "kind"), [(2, Factored), (7, Dense)])
def test_a_product_is_kept_in_the_form_that_costs_less(rank: int, kind: type[Operator]) -> None:
    left, right = torch.randn(8, rank), torch.randn(rank, 8)

    chosen = cheaper(left, right)

    assert type(chosen) is kind
    assert torch.allclose(_matrix(chosen), left @ right, atol=1e-5)


def _matrix(operator: Operator, size: int = 8) -> Tensor:
    return operator.apply(torch.eye(size))
