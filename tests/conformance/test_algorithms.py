"""What every algorithm keeps: complete modules become updates of the right shape, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lorax.adapter import SiteShape, Update
from lorax.algorithm import Algorithm, Layout
from lorax.algorithms import ALGORITHMS
from lorax.errors import BadFile, Unsupported
from lorax.safe_header import ReadLimits, TensorEntry
from lorax.weight_file import element_type

LINEAR, CONVOLUTION = SiteShape(12, 10), SiteShape(12, 10, (3, 3))
RANK = 3
Maker = Callable[..., Tensor]
Tensors = dict[str, Tensor]


def factors(make: Maker, shape: SiteShape) -> Tensors:
    kernel = shape.kernel or ()
    ones = (1,) * len(kernel)
    return {"down": make(RANK, shape.in_features, *kernel), "up": make(shape.out_features, RANK, *ones)}


def hadamard(make: Maker, shape: SiteShape) -> Tensors:
    sides = {"a": (shape.out_features, RANK), "b": (RANK, shape.columns)}
    return {f"hada_w{number}_{side}": make(*size) for number in "12" for side, size in sides.items()}


def kronecker(make: Maker, shape: SiteShape) -> Tensors:
    kernel = shape.kernel or ()
    whole = {"lokr_w1": make(3, 2)}
    second = make(shape.out_features // 3, shape.in_features // 2, *kernel)
    low_rank = {"lokr_w2_a": make(4, RANK), "lokr_w2_b": make(RANK, shape.columns // 2)}
    return whole | (low_rank if kernel else {"lokr_w2": second})


def with_lengths(make: Maker, shape: SiteShape) -> Tensors:
    ones = (1,) * len(shape.kernel or ())
    return factors(make, shape) | {"magnitude": make(shape.out_features, 1, *ones).abs()}


EXAMPLES: dict[str, Callable[[Maker, SiteShape], Tensors]] = {
    "lora": factors,
    "lora_embedding": lambda make, shape: {
        "embedding_down": make(RANK, shape.out_features),
        "embedding_up": make(shape.in_features, RANK),
    },
    "loha": hadamard,
    "lokr": kronecker,
    "dora": with_lengths,
    "full": lambda make, shape: {"diff": make(*shape.weight_shape)},
    "ia3": lambda make, shape: {"ia3": make(shape.in_features), "on_input": torch.tensor(1.0)},
    "oft": lambda make, _: {"oft_blocks": make(3, 4, 4), "alpha": torch.tensor(0.01), "rescale": make(12, 1)},
    "oft_packed": lambda make, shape: {"oft_r": make(shape.columns // 5, 10)},
    "boft": lambda make, shape: {"boft_r": make(1, shape.columns // 5, 5, 5), "boft_s": make(12, 1)},
    "svdiff": lambda make, _: {"delta": make(10)},
    "lora_x": lambda make, _: {"lora_x_sigma": make(RANK)},
    "foura": lambda make, shape: {
        "foura_down": make(RANK, shape.in_features),
        "foura_up": make(shape.out_features, RANK),
    },
}
"""One maker of a module's tensors per algorithm that is moved: a new algorithm adds its own, written without it."""

# The singular vectors of a weight as a matrix: of the linear layer, so that ten is the narrower side.
LINEAR_ONLY = {"lora_embedding", "foura", "svdiff"}
READ_ONLY = {"foura"}
WITHOUT_ROWS = {"lokr", "oft", "svdiff", "lora_x"}
MOVED = [algorithm for algorithm in ALGORITHMS.values() if not algorithm.refusal]
REFUSED = [algorithm for algorithm in ALGORITHMS.values() if algorithm.refusal]


def named(algorithms: list[Algorithm]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("algorithm", algorithms, ids=lambda algorithm: algorithm.name)


def shapes_of(algorithm: Algorithm) -> list[SiteShape]:
    return [LINEAR] if algorithm.name in LINEAR_ONLY else [LINEAR, CONVOLUTION]


def example(algorithm: Algorithm, shape: SiteShape, dtype: torch.dtype = torch.float32) -> Tensors:
    generator = torch.Generator().manual_seed(4)

    def make(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64).to(dtype) * 0.5

    return EXAMPLES[algorithm.name](make, shape)


def entries(tensors: Tensors) -> dict[str, TensorEntry]:
    return {role: TensorEntry(role, element_type(t.dtype), tuple(t.shape), 0, 0) for role, t in tensors.items()}


def layout_of(algorithm: Algorithm, described: dict[str, TensorEntry], limits: ReadLimits | None = None) -> Layout:
    assert algorithm.layout is not None
    return algorithm.layout(described, limits or ReadLimits())


def read(algorithm: Algorithm, tensors: Tensors, shape: SiteShape, scale: float = 0.5) -> Update:
    assert algorithm.decode is not None
    assert layout_of(algorithm, entries(tensors)).fits(shape)
    return algorithm.decode(tensors, scale, shape)


def base_weight(shape: SiteShape, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(9)
    return torch.randn(shape.weight_shape, generator=generator, dtype=torch.float64).to(dtype)


@named(list(ALGORITHMS.values()))
def test_it_claims_its_own_roles_and_no_stranger(algorithm: Algorithm) -> None:
    own = frozenset(example(algorithm, LINEAR)) if algorithm in MOVED else algorithm.required

    assert algorithm.claims_roles(own)
    assert algorithm.claims_roles(own | (algorithm.optional & {"alpha"}))
    assert not algorithm.claims_roles(own | {"nobody_knows"})
    assert not algorithm.required & algorithm.optional
    assert own <= algorithm.required | algorithm.optional
    assert algorithm.summary


@named(list(ALGORITHMS.values()))
def test_a_complete_module_is_of_one_algorithm_only(algorithm: Algorithm) -> None:
    complete = frozenset(example(algorithm, LINEAR)) if algorithm in MOVED else algorithm.required
    claiming = [
        other.name for other in ALGORITHMS.values() if other.claims_roles(complete) and other.required <= complete
    ]

    assert claiming == [algorithm.name]


@named(REFUSED)
def test_what_is_refused_says_why(algorithm: Algorithm) -> None:
    assert len(algorithm.refusal.split()) > 5
    assert algorithm.layout is algorithm.decode is algorithm.encode is None


@named(MOVED)
def test_the_layout_fits_the_weight_it_patches_and_no_other(algorithm: Algorithm) -> None:
    for shape in shapes_of(algorithm):
        layout = layout_of(algorithm, entries(example(algorithm, shape)))

        assert layout.fits(shape)
        assert not layout.fits(SiteShape(7, 2))
        assert layout.shape is None or layout.shape == shape


@named(MOVED)
def test_the_update_has_the_shape_and_the_element_type_of_what_it_is_given(algorithm: Algorithm) -> None:
    for shape in shapes_of(algorithm):
        for dtype in (torch.float32, torch.float64):
            update = read(algorithm, example(algorithm, shape, dtype), shape)

            change = update.dense(base_weight(shape, dtype))

            assert change.shape == shape.weight_shape
            assert change.dtype == dtype
            assert change.abs().max() > 0
            assert update.kernel == shape.kernel


@named(MOVED)
def test_an_update_that_needs_the_base_weight_says_so(algorithm: Algorithm) -> None:
    update = read(algorithm, example(algorithm, LINEAR), LINEAR)

    if update.needs_base:
        assert update.low_rank() is None
        with pytest.raises(ValueError, match="weight of the base"):
            update.dense()
    else:
        torch.testing.assert_close(update.dense(), update.dense(base_weight(LINEAR)))


@named(MOVED)
def test_exact_factors_are_the_update(algorithm: Algorithm) -> None:
    for shape in shapes_of(algorithm):
        update = read(algorithm, example(algorithm, shape, torch.float64), shape)

        if (found := update.low_rank()) is not None:
            torch.testing.assert_close(found.dense(), update.dense())


@named(MOVED)
def test_what_was_read_is_written_back_bit_for_bit(algorithm: Algorithm) -> None:
    assert (algorithm.encode is None) == (algorithm.name in READ_ONLY)
    if algorithm.encode is None:
        return
    for shape in shapes_of(algorithm):
        tensors = example(algorithm, shape)

        encoded = algorithm.encode(read(algorithm, tensors, shape, scale=1.0))

        assert encoded.tensors.keys() == tensors.keys()
        assert all(torch.equal(encoded.tensors[role], tensor) for role, tensor in tensors.items())
        assert all(tensor.is_contiguous() for tensor in encoded.tensors.values())
        assert encoded.scale in {None, 1.0}


@named(MOVED)
def test_rows_of_an_update_are_the_rows_of_its_change(algorithm: Algorithm) -> None:
    for shape in shapes_of(algorithm):
        update = read(algorithm, example(algorithm, shape, torch.float64), shape)
        weight = base_weight(shape, torch.float64)

        if algorithm.name in WITHOUT_ROWS:
            with pytest.raises(Unsupported, match="cannot be divided"):
                update.rows(2, 7)
        else:
            torch.testing.assert_close(update.rows(2, 7).dense(weight[2:7]), update.dense(weight)[2:7])


@named(MOVED)
def test_factors_of_whole_numbers_are_refused(algorithm: Algorithm) -> None:
    described = entries(example(algorithm, LINEAR))
    role = next(iter(described))
    described[role] = TensorEntry("whole", "I32", described[role].shape, 0, 0)

    with pytest.raises(BadFile, match="'whole' is I32") as raised:
        layout_of(algorithm, described)
    assert raised.value.reason == "bad-dtype"


@named(MOVED)
def test_tensors_of_three_dimensions_are_refused_by_name(algorithm: Algorithm) -> None:
    described = entries(example(algorithm, LINEAR))
    for role in described:
        broken = dict(described)
        broken[role] = TensorEntry("odd", "F32", (2, 5, 7), 0, 0)

        with pytest.raises(BadFile, match="odd") as raised:
            layout_of(algorithm, broken)
        assert raised.value.reason == "bad-shape"


@named([algorithm for algorithm in MOVED if algorithm.name not in LINEAR_ONLY])
def test_a_tensor_without_dimensions_is_refused_by_name(algorithm: Algorithm) -> None:
    described = entries(example(algorithm, LINEAR))
    for role in described.keys() - {"alpha", "on_input", "rescale"}:
        broken = described | {role: TensorEntry("point", "F32", (), 0, 0)}

        with pytest.raises(BadFile, match="point"):
            layout_of(algorithm, broken)


@named([algorithm for algorithm in MOVED if algorithm.name in {"lora", "lora_embedding", "loha", "dora", "foura"}])
def test_a_rank_above_the_limits_is_refused_before_anything_is_read(algorithm: Algorithm) -> None:
    described = entries(example(algorithm, LINEAR))

    for limits in (ReadLimits(rank=RANK - 1), ReadLimits(rank_to_width=0.2)):
        with pytest.raises(BadFile) as raised:
            layout_of(algorithm, described, limits)
        assert raised.value.reason == "rank-too-large"
