from __future__ import annotations

import pytest
import torch

from lorax.adapter import SiteShape
from lorax.algorithm import Layout
from lorax.algorithms.loha import LoHa
from lorax.algorithms.lokr import LoKr
from lorax.base_models import known_bases
from lorax.dialect import all_modules
from lorax.matrix_fit import MatrixFit
from lorax.shortlist import largest_share, sizes_of
from tests.stand_ins.adapter_files import small_base

BASES = {base.name: base for base in known_bases()}


@pytest.mark.parametrize("name", BASES)
def test_no_base_is_struck_off_for_any_of_its_own_modules_fused_ones_too(name: str) -> None:
    base = BASES[name]
    shapes = [module.shape for module in all_modules(base) if module.shape is not None]

    sizes = sizes_of(Layout(shape, 1) for shape in shapes)

    assert sum(sizes.values()) == len(shapes) > 0
    assert largest_share(sizes, base) == 1.0


def test_a_base_without_such_weights_is_struck_off_whatever_its_names() -> None:
    sizes = sizes_of(Layout(shape, 4) for shape in BASES["sd1.5"].sites.values())

    left = {name for name, base in BASES.items() if largest_share(sizes, base) >= 0.99}

    assert {"sd1.5", "sd1.5-inpainting"} <= left
    assert not left & {"sdxl", "sd2.1", "flux1-dev", "llama-3-8b", "wan2.1-t2v-14b"}


def test_the_share_is_that_of_the_modules_that_may_fit() -> None:
    base = small_base()
    known = next(iter(base.sites.values()))
    nowhere, open_one = Layout(SiteShape(5, 7), 1), Layout(None, 0, lambda _: False)

    assert largest_share(sizes_of([Layout(known, 1), nowhere, nowhere, None]), base) == 0.5
    assert largest_share(sizes_of([open_one]), base) == 1.0
    assert largest_share(sizes_of([Layout(None, 1, MatrixFit(5, 7))]), base) == 0.0
    assert largest_share(sizes_of([]), base) == 0.0


def test_a_matrix_fits_weights_of_its_size_whatever_their_kernel() -> None:
    fit = MatrixFit(4, 18)

    assert fit(SiteShape(4, 2, (3, 3)))
    assert fit(SiteShape(4, 18))
    assert not fit(SiteShape(4, 2))


@pytest.mark.parametrize("whole", ["", "1", "2", "12"])
@pytest.mark.parametrize("core", [False, True])
def test_norm_and_exact_rank_of_a_kronecker_product_are_those_of_its_factors(whole: str, core: bool) -> None:  # noqa: FBT001
    draw = torch.Generator().manual_seed(3)
    kernel = (3, 3) if core else ()
    parts = {"lokr_w1_a": (4, 2), "lokr_w1_b": (2, 3), "lokr_w2_a": (2, 6) if core else (6, 2), "lokr_w2_b": (2, 5)}
    parts |= {"lokr_t2": (2, 2, *kernel)} if core else {}
    parts = {role: shape for role, shape in parts.items() if not any(role[5:].startswith(f"w{one}") for one in whole)}
    parts |= {"lokr_w1": (4, 3)} if "1" in whole else {}
    if "2" in whole:
        parts = {role: shape for role, shape in parts.items() if role != "lokr_t2"} | {"lokr_w2": (6, 5, *kernel)}
    tensors = {role: torch.randn(shape, generator=draw) for role, shape in parts.items()}
    update = LoKr(tensors, -0.5, SiteShape(24, 15, kernel or None))

    assert update.norm() == pytest.approx(float(update.dense().norm()), rel=1e-5)
    assert update.exact_rank == update.low_rank().rank


def test_norm_and_exact_rank_of_an_elementwise_product_are_its_own() -> None:
    draw = torch.Generator().manual_seed(3)
    parts = [torch.randn(shape, generator=draw) for shape in ((12, 3), (3, 10), (12, 3), (3, 10))]
    update = LoHa(*parts, scale=0.5, shape=SiteShape(12, 10))
    factors = update.low_rank()

    assert factors is not None
    assert update.norm() == pytest.approx(factors.norm(), rel=1e-5)
    assert update.exact_rank == factors.rank
