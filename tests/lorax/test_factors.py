from __future__ import annotations

import pytest
import torch

from lorax.adapter import LowRank
from lorax.factors import count_non_finite, factors_for_file, with_alpha_in


def update_of(
    *, up: float = 1.0, down: float = 1.0, scale: float = 0.5, kernel: tuple[int, int] | None = None
) -> LowRank:
    generator = torch.Generator().manual_seed(0)
    columns = 6 * (kernel[0] * kernel[1] if kernel else 1)
    factors = torch.randn(5, 3, generator=generator) * up, torch.randn(3, columns, generator=generator) * down
    return LowRank(*factors, scale, kernel)


def product(up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    return up.double().reshape(up.shape[0], -1) @ down.double().reshape(down.shape[0], -1)


@pytest.mark.parametrize("kernel", [None, (1, 1), (3, 3)])
def test_factors_have_the_shapes_that_files_use(kernel: tuple[int, int] | None) -> None:
    up, down = factors_for_file(update_of(kernel=kernel), dtype=torch.bfloat16)

    assert up.dtype == down.dtype == torch.bfloat16
    assert up.shape == ((5, 3) if kernel is None else (5, 3, 1, 1))
    assert down.shape == ((3, 6) if kernel is None else (3, 6, *kernel))
    assert up.is_contiguous()
    assert down.is_contiguous()


@pytest.mark.parametrize(("up", "down"), [(1e-6, 1e3), (1e5, 1e-4), (3e-5, 10.0), (1.0, 1e-7)])
def test_half_precision_keeps_products_whose_factors_are_far_apart(up: float, down: float) -> None:
    update = update_of(up=up, down=down)

    written = factors_for_file(update, dtype=torch.float16)

    exact = product(update.up, update.down)
    plain = product(update.up.half(), update.down.half())
    error = float((product(*written) - exact).norm() / exact.norm())
    assert error < 2e-3
    assert not float((plain - exact).norm() / exact.norm()) < error


def test_ordinary_factors_are_written_as_they_are() -> None:
    update = update_of()

    up, down = factors_for_file(update, dtype=torch.float16)

    assert torch.equal(up, update.up.half())
    assert torch.equal(down, update.down.half())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float8_e4m3fn])
@pytest.mark.parametrize("scale", [0.5, 0.3, 1 / 3, -0.7, 1.37, 2.0])
def test_rounding_alpha_does_not_change_the_strength(scale: float, dtype: torch.dtype) -> None:
    update = update_of(scale=scale)

    scaled, alpha = with_alpha_in(update, dtype=dtype)

    assert alpha.dtype == dtype
    assert alpha.shape == ()
    read_back = float(alpha) / update.rank * (scaled.up @ scaled.down)
    assert torch.allclose(read_back, update.dense(), rtol=1e-5, atol=1e-7)
    assert scaled.scale == pytest.approx(float(alpha) / update.rank)


def test_a_scale_of_zero_is_not_written_as_an_alpha_that_means_something_else() -> None:
    scaled, alpha = with_alpha_in(update_of(scale=0.0), dtype=torch.float16)

    assert float(alpha) == 3.0
    assert scaled.norm() == 0.0


def test_values_that_are_not_finite_are_counted_and_a_sum_that_overflows_is_none() -> None:
    assert count_non_finite(torch.tensor([1.0, torch.nan, torch.inf, -torch.inf])) == 3
    assert count_non_finite(torch.tensor([torch.inf, -torch.inf])) == 2
    assert count_non_finite(torch.full((4,), 3e38)) == 0
    assert count_non_finite(torch.tensor(1.0)) == 0
