"""Low-rank forms that are exact, on shapes that nobody thought of."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lorax.adapter import SiteShape
from lorax.algorithms.loha import LoHa
from lorax.algorithms.lokr import LoKr
from lorax.algorithms.lora import factor_tensors, factor_update
from lorax.grouped_columns import expand_grouped_down
from lorax.lowering import lower
from tests.lorax.algorithms.oracles import read_module

sizes = st.integers(1, 9)
taps = st.integers(1, 3)
forms = st.sampled_from(["plain", "Tucker"])
seeds = st.integers(0, 2**31)
scales = st.floats(-4, 4, allow_nan=False).filter(lambda scale: abs(scale) > 1e-3)


def numbers(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


@given(out=sizes, inner=sizes, rank=st.integers(1, 4), height=taps, width=taps, scale=scales, seed=seeds)
def test_a_tucker_core_is_the_three_convolutions_in_a_row(
    out: int, inner: int, rank: int, height: int, width: int, scale: float, seed: int
) -> None:
    up, core, down = numbers(seed, (out, rank, 1, 1), (rank, rank, height, width), (rank, inner, 1, 1))
    images = numbers(seed + 1, (2, inner, 5, 4))[0]
    convolve = torch.nn.functional.conv2d

    update = factor_update({"up": up, "mid": core, "down": down}, scale, SiteShape(out, inner, (height, width)))

    told = scale * convolve(convolve(convolve(images, down), core), up)
    assert update.rank == rank
    torch.testing.assert_close(convolve(images, update.dense()), told)


@given(
    out=sizes, inner=sizes, rank=st.integers(1, 4), form=st.sampled_from(["plain", "Tucker"]), scale=scales, seed=seeds
)
def test_loha_is_the_product_of_its_halves_whatever_form_is_used(
    out: int, inner: int, rank: int, form: str, scale: float, seed: int
) -> None:
    columns, tucker = inner * 6, form == "Tucker"
    sides = [(rank, out), (rank, inner)] if tucker else [(out, rank), (rank, columns)]
    w1_a, w1_b, w2_a, w2_b = numbers(seed, *sides, *sides)
    t1, t2 = numbers(seed + 1, *[(rank, rank, 2, 3)] * 2) if tucker else (None, None)
    update = LoHa(w1_a, w1_b, w2_a, w2_b, scale, SiteShape(out, inner, (2, 3)), t1, t2)

    exact = update.low_rank()

    assert (exact is None) == (rank**2 > min(out, columns))
    if exact is not None:
        torch.testing.assert_close(exact.dense(), update.dense())
    begin = out // 2
    torch.testing.assert_close(update.rows(begin, out).dense(), update.dense()[begin:])


@given(rows=st.tuples(sizes, sizes), columns=st.tuples(sizes, sizes), ranks=st.tuples(*[st.integers(0, 4)] * 2),
       scale=scales, seed=seeds)  # fmt: skip
def test_lokr_factors_are_the_kronecker_product(
    rows: tuple[int, int], columns: tuple[int, int], ranks: tuple[int, int], scale: float, seed: int
) -> None:
    tensors: dict[str, Tensor] = {}
    for number, out, inner, rank in zip("12", rows, columns, ranks, strict=True):
        if rank:
            tensors[f"lokr_w{number}_a"], tensors[f"lokr_w{number}_b"] = numbers(seed, (out, rank), (rank, inner))
        else:
            [tensors[f"lokr_w{number}"]] = numbers(seed, (out, inner))
    wholes = [
        tensors[f"lokr_w{n}"] if rank == 0 else tensors[f"lokr_w{n}_a"] @ tensors[f"lokr_w{n}_b"]
        for n, rank in zip("12", ranks, strict=True)
    ]
    update = LoKr(tensors, scale, SiteShape(rows[0] * rows[1], columns[0] * columns[1]))

    exact = update.low_rank()

    torch.testing.assert_close(update.dense(), scale * torch.kron(*wholes))
    torch.testing.assert_close(exact.dense(), update.dense())
    assert exact.rank <= min(exact.out_features, exact.columns)


@given(out=sizes, inner=sizes, rank=st.integers(1, 40), kernel=st.sampled_from([None, (1, 1), (2, 3), (1, 2, 2)]),
       scale=scales, seed=seeds)  # fmt: skip
def test_lora_of_a_rank_above_the_weights_loses_rank_and_nothing_else(
    out: int, inner: int, rank: int, kernel: tuple[int, ...] | None, scale: float, seed: int
) -> None:
    shape = SiteShape(out, inner, kernel)
    up, down = numbers(seed, (out, rank), (rank, shape.columns))
    ones = (1,) * len(kernel or ())
    tensors = {"up": up.reshape(out, rank, *ones), "down": down.reshape(rank, inner, *(kernel or ()))}
    update = factor_update(tensors, scale, shape)

    lowered = lower(update, None, rank=1)

    assert lowered.lost == 0
    assert lowered.update.rank == min(rank, out, shape.columns)
    torch.testing.assert_close(lowered.update.dense(), update.dense(), rtol=1e-6, atol=1e-6)
    assert all(torch.equal(tensor, tensors[role]) for role, tensor in factor_tensors(update).items())


@given(rank=st.integers(1, 4), groups=st.integers(1, 6), group=st.integers(1, 5), seed=seeds)
def test_a_grouped_factor_sees_the_mean_of_each_group_times_their_number(
    rank: int, groups: int, group: int, seed: int
) -> None:
    down, inputs = numbers(seed, (rank, groups), (3, groups * group))

    told = inputs.reshape(3, groups, group).mean(2) * groups @ down.mT

    torch.testing.assert_close(inputs @ expand_grouped_down(down, group).mT, told)


def test_two_dimensional_factors_serve_a_convolution_of_one_tap() -> None:
    up, down = numbers(1, (6, 2), (2, 5))
    shape = SiteShape(6, 5, (1, 1))

    flat = read_module({"up": up, "down": down}, shape)
    deep = read_module({"up": up[..., None, None], "down": down[..., None, None]}, SiteShape(6, 5))

    assert flat.dense().shape == (6, 5, 1, 1)
    assert torch.equal(flat.dense().flatten(1), deep.dense())
