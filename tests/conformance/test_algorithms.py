"""What every algorithm keeps: complete modules become updates of the right shape, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lorax.adapter import SiteShape
from lorax.algorithm import FOREIGN, Algorithm, foreign_algorithm
from lorax.algorithms import ALGORITHMS
from lorax.errors import BadFile
from lorax.safe_header import ReadLimits, TensorEntry
from lorax.weight_file import element_type

SHAPES = [SiteShape(12, 10), SiteShape(12, 10, (1, 1)), SiteShape(12, 10, (3, 3)), SiteShape(9, 40)]
RANK = 3
every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=lambda algorithm: algorithm.name)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def lora(shape: SiteShape, generator: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
    """Makes the tensors of a module, and the update they mean at scale 1."""
    up, down = (
        torch.randn(shape.out_features, RANK, generator=generator),
        torch.randn(RANK, shape.columns, generator=generator),
    )
    kernel = shape.kernel or ()
    tensors = {"down": down.reshape(RANK, shape.in_features, *kernel), "up": up.reshape(-1, RANK, *(1 for _ in kernel))}
    return tensors, (up @ down).reshape(shape.weight_shape)


EXAMPLES: dict[str, Callable[[SiteShape, torch.Generator], tuple[dict[str, Tensor], Tensor]]] = {"lora": lora}
"""One maker per algorithm: a new algorithm adds its own, written without its code."""


def entries(tensors: dict[str, Tensor]) -> dict[str, TensorEntry]:
    return {role: TensorEntry(role, element_type(t.dtype), tuple(t.shape), 0, 0) for role, t in tensors.items()}


@every_algorithm
@every_shape
def test_the_layout_is_that_of_the_weight_it_patches(algorithm: Algorithm, shape: SiteShape) -> None:
    tensors, _ = EXAMPLES[algorithm.name](shape, torch.Generator().manual_seed(1))

    layout = algorithm.layout(entries(tensors), ReadLimits())

    assert layout.shape == shape
    assert layout.rank == RANK


@every_algorithm
@every_shape
@pytest.mark.parametrize("scale", [1.0, 0.25, -2.0])
def test_the_update_is_the_algebra_times_the_scale(algorithm: Algorithm, shape: SiteShape, scale: float) -> None:
    tensors, meant = EXAMPLES[algorithm.name](shape, torch.Generator().manual_seed(2))

    update = algorithm.decode(tensors, scale, shape.kernel)

    assert update.dense().shape == shape.weight_shape
    assert torch.allclose(update.dense(), scale * meant, atol=1e-4)
    assert update.norm() == pytest.approx(float((scale * meant).norm()), rel=1e-4)


@every_algorithm
def test_a_rank_above_the_limits_is_refused_before_anything_is_read(algorithm: Algorithm) -> None:
    tensors, _ = EXAMPLES[algorithm.name](SHAPES[0], torch.Generator().manual_seed(3))

    for limits in (ReadLimits(rank=RANK - 1), ReadLimits(rank_to_width=0.2)):
        with pytest.raises(BadFile) as raised:
            algorithm.layout(entries(tensors), limits)
        assert raised.value.reason == "rank-too-large"


@every_algorithm
def test_it_claims_its_own_roles_and_no_stranger(algorithm: Algorithm) -> None:
    assert algorithm.claims(algorithm.required)
    assert algorithm.claims(algorithm.required | algorithm.optional)
    assert not algorithm.claims(algorithm.required | {"nobody_knows"})
    assert not algorithm.required & algorithm.optional
    assert algorithm.summary


@every_algorithm
def test_a_complete_module_is_of_one_algorithm_only(algorithm: Algorithm) -> None:
    complete = algorithm.required
    claiming = [other.name for other in ALGORITHMS.values() if other.claims(complete) and other.required <= complete]

    assert claiming == [algorithm.name]


def test_every_stranger_has_a_name() -> None:
    assert all(name for _, name in FOREIGN)
    assert foreign_algorithm("hada_w1_a", "x.hada_w1_a") == "LoHa"
    assert foreign_algorithm("nobody_knows", "x.nobody_knows") == ""
