from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lorax.adapter import Site, SiteShape
from lorax.dialect import EncodedModule
from lorax.factors import count_non_finite, folded, for_file, with_alpha
from lorax.naming import NamedModule, Part


def encoded(*, up: float = 1.0, down: float = 1.0, scale: float | None = 0.5, rank: int = 3) -> EncodedModule:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "up": torch.randn(5, rank, generator=generator) * up,
        "down": torch.randn(rank, 6, generator=generator) * down,
    }
    return module_of(tensors, rank=rank, scale=scale)


def module_of(tensors: dict[str, Tensor], *, rank: int, scale: float | None, algorithm: str = "lora") -> EncodedModule:
    named = NamedModule("unet", "a", (Part(Site("unet", "a")),), SiteShape(5, 6))
    return EncodedModule("a", named, algorithm, tensors, rank, scale)


def product(up: Tensor, down: Tensor) -> Tensor:
    return up.double() @ down.double()


@pytest.mark.parametrize(("up", "down"), [(1e-6, 1e3), (1e5, 1e-4), (3e-5, 10.0), (1.0, 1e-7)])
@pytest.mark.parametrize("names", [("up", "down"), ("embedding_down", "embedding_up")])
def test_half_precision_keeps_products_whose_factors_are_far_apart(
    names: tuple[str, str], up: float, down: float
) -> None:
    first, second = encoded(up=up, down=down).tensors.values()

    written = for_file(dict(zip(names, (first, second), strict=True)), dtype=torch.float16)

    exact = product(first, second)
    error = float((product(*(written[name] for name in names)) - exact).norm() / exact.norm())
    plain = float((product(first.half(), second.half()) - exact).norm() / exact.norm())
    assert error < 2e-3
    assert not plain < error


def test_ordinary_factors_are_written_as_they_are_and_in_one_piece() -> None:
    tensors = {"up": torch.randn(3, 5).mT, "down": torch.randn(3, 6)}

    written = for_file(tensors, dtype=torch.float16)

    assert torch.equal(written["up"], tensors["up"].half())
    assert torch.equal(written["down"], tensors["down"].half())
    assert written["up"].is_contiguous()


def test_what_holds_no_floats_keeps_its_element_type() -> None:
    written = for_file({"ia3": torch.ones(3), "on_input": torch.tensor(data=True)}, dtype=torch.bfloat16)

    assert written["ia3"].dtype == torch.bfloat16
    assert written["on_input"].dtype == torch.bool


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float8_e4m3fn])
@pytest.mark.parametrize("scale", [0.5, 0.3, 1 / 3, -0.7, 1.37, 2.0])
def test_rounding_alpha_does_not_change_the_strength(scale: float, dtype: torch.dtype) -> None:
    module = encoded(scale=scale)

    tensors, alpha = with_alpha(module, dtype=dtype)

    assert alpha is not None
    assert alpha.dtype == tensors["up"].dtype == dtype
    assert alpha.shape == ()
    wanted = scale * product(*module.tensors.values())
    found = float(alpha) / module.rank * product(*(tensor.float() for tensor in tensors.values()))
    tolerance = {torch.float16: 1e-3, torch.bfloat16: 1e-2, torch.float8_e4m3fn: 0.2}.get(dtype, 1e-6)
    assert float((found - wanted).norm() / wanted.norm()) < tolerance


@pytest.mark.parametrize("scale", [0.3, 1 / 3, 0.7])
def test_the_rounded_part_of_alpha_is_found_in_a_factor(scale: float) -> None:
    module = encoded(scale=scale)
    wide = {role: tensor.double() for role, tensor in module.tensors.items()}

    _, alpha = with_alpha(module, dtype=torch.float16)
    tensors, alpha = with_alpha(module_of(wide, rank=3, scale=scale), dtype=torch.float32)

    assert alpha is not None
    found = float(alpha) / 3 * product(*tensors.values())
    assert torch.allclose(found, scale * product(*wide.values()), rtol=1e-5, atol=1e-7)


def test_a_scale_of_zero_is_not_written_as_an_alpha_that_means_something_else() -> None:
    tensors, alpha = with_alpha(encoded(scale=0.0), dtype=torch.float16)

    assert alpha is not None
    assert float(alpha) == 3.0
    assert not tensors["up"].any()


def test_an_algorithm_without_alpha_gets_none() -> None:
    module = module_of({"ia3": torch.ones(5)}, rank=0, scale=None, algorithm="ia3")

    tensors, alpha = with_alpha(module, dtype=torch.float32)

    assert alpha is None
    assert torch.equal(tensors["ia3"], torch.ones(5))


def test_an_update_without_a_rank_takes_its_scale_into_a_factor() -> None:
    module = module_of({"lokr_w1": torch.eye(2), "lokr_w2": torch.ones(3, 3)}, rank=0, scale=0.5, algorithm="lokr")

    tensors, alpha = with_alpha(module, dtype=torch.float32)

    assert alpha is None
    assert torch.equal(tensors["lokr_w1"], 0.5 * torch.eye(2))
    assert torch.equal(tensors["lokr_w2"], torch.ones(3, 3))


def test_folding_multiplies_one_factor_by_the_scale() -> None:
    module = encoded(scale=0.25)

    tensors = folded(module, dtype=torch.float32)

    assert torch.equal(tensors["up"], 0.25 * module.tensors["up"])
    assert torch.equal(tensors["down"], module.tensors["down"])


def test_a_scale_that_no_tensor_can_take_is_a_mistake_of_the_algorithm() -> None:
    with pytest.raises(ValueError, match="oft_blocks"):
        folded(module_of({"oft_blocks": torch.ones(1, 2, 2)}, rank=1, scale=0.5), dtype=torch.float32)


def test_values_that_are_not_finite_are_counted_and_a_sum_that_overflows_is_none() -> None:
    assert count_non_finite(torch.tensor([1.0, torch.nan, torch.inf, -torch.inf])) == 3
    assert count_non_finite(torch.tensor([torch.inf, -torch.inf])) == 2
    assert count_non_finite(torch.full((4,), 3e38)) == 0
    assert count_non_finite(torch.tensor(1.0)) == 0
