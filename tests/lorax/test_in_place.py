from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lorax.in_place import stays_in_place
from lorax.operators import (
    Blocks,
    Dense,
    Factored,
    Identity,
    IdentityPlus,
    Operator,
    Projector,
    Scaling,
    SignedPermutation,
)

SIZE = 12


def noise(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def basis(rank: int) -> Tensor:
    return torch.linalg.qr(noise(SIZE, rank)).Q


def blocks(columns: list[int]) -> Blocks:
    own = torch.eye(4).expand(3, 4, 4).contiguous()
    return Blocks(own, torch.arange(3).int(), torch.tensor(columns).int(), torch.tensor([3, 3]).int())


CASES: dict[str, tuple[Operator, bool]] = {
    "identity": (Identity(), True),
    "twice": (Scaling(torch.tensor([2.0])), True),
    "turned round": (Scaling(torch.tensor([-1.0])), False),
    "projector onto most directions": (Projector(basis(7)), True),
    "projector onto few": (Projector(basis(5)), False),
    "dense and nearly the identity": (Dense(torch.eye(SIZE) + 0.2 * noise(SIZE, SIZE)), True),
    "dense and unlike it": (Dense(torch.eye(SIZE) + 0.5 * noise(SIZE, SIZE)), False),
    "dense of another width": (Dense(torch.ones(SIZE + 1, SIZE)), False),
    "nothing": (Dense(torch.zeros(SIZE, SIZE)), False),
    "factored": (Factored(basis(8), basis(8).mT), True),
    "factored of little": (Factored(basis(3), basis(3).mT), False),
    "identity and a little": (IdentityPlus(torch.ones(1), 0.3 * basis(2), basis(2).mT), True),
    "identity and much": (IdentityPlus(torch.ones(1), noise(SIZE, 2, seed=1), noise(2, SIZE, seed=2)), False),
    "blocks at their own places": (blocks([0, 1, 2]), True),
    "blocks that change places": (blocks([1, 2, 0]), False),
    "permutation": (SignedPermutation(torch.arange(SIZE).roll(1).int(), torch.ones(SIZE)), False),
}


@pytest.mark.parametrize(("operator", "stays"), CASES.values(), ids=CASES)
def test_an_operator_stays_in_place_when_half_of_it_is_along_the_identity(operator: Operator, *, stays: bool) -> None:
    assert stays_in_place(operator, SIZE) is stays
    if not isinstance(operator, SignedPermutation):
        # What is computed from factors is what the whole matrix says.
        matrix = operator.apply(torch.eye(SIZE))
        square = matrix.shape[0] == matrix.shape[1]
        cosine = float(matrix.trace()) / float(SIZE**0.5 * matrix.norm()) if square and matrix.any() else 0.0
        assert (cosine > 0 and cosine**2 >= 0.5) is stays
