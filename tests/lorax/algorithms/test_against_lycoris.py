"""Every algorithm that LyCORIS writes does here what LyCORIS does, and its files have the names that are read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lycoris.modules.boft import ButterflyOFTModule
from lycoris.modules.diag_oft import DiagOFTModule
from lycoris.modules.dylora import DyLoraModule
from lycoris.modules.full import FullModule
from lycoris.modules.glora import GLoRAModule
from lycoris.modules.ia3 import IA3Module
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from lycoris.modules.tlora import TLoraModule

from lorax.adapter import SiteShape
from lorax.algorithms import ALGORITHMS
from lorax.algorithms.dora import _INNER as INNER
from lorax.algorithms.dora import DoRA
from tests.lorax.algorithms.oracles import (
    CONV1,
    CONV3,
    LINEAR,
    LYCORIS_ROLES,
    algorithm_of,
    by_role,
    read_module,
    told_by_lycoris,
)

CONV3D = SiteShape(8, 6, (2, 3, 3))
LORA = {"lora_up.weight", "lora_down.weight", "alpha"}
LOHA = {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "alpha"}
CASES: dict[str, tuple[Any, SiteShape, dict[str, Any], set[str]]] = {
    "lora": (LoConModule, LINEAR, {"lora_dim": 4, "alpha": 2}, LORA),
    "lora rank stabilised": (LoConModule, LINEAR, {"lora_dim": 4, "alpha": 3, "rs_lora": True}, LORA),
    "lora with a scalar": (LoConModule, LINEAR, {"lora_dim": 4, "alpha": 2, "use_scalar": True}, LORA),
    "lora beside the layer": (LoConModule, LINEAR, {"lora_dim": 4, "alpha": 2, "bypass_mode": True}, LORA),
    "lora of a rank above the layer's": (LoConModule, SiteShape(6, 40), {"lora_dim": 16, "alpha": 4}, LORA),
    "convolution 1x1": (LoConModule, CONV1, {"lora_dim": 4, "alpha": 2}, LORA),
    "convolution 3x3": (LoConModule, CONV3, {"lora_dim": 4, "alpha": 2}, LORA),
    "convolution 2x3x3": (LoConModule, CONV3D, {"lora_dim": 3, "alpha": 2}, LORA),
    "Tucker": (LoConModule, CONV3, {"lora_dim": 4, "alpha": 2, "use_tucker": True}, LORA | {"lora_mid.weight"}),
    "Tucker 2x3x3": (LoConModule, CONV3D, {"lora_dim": 3, "use_tucker": True}, LORA | {"lora_mid.weight"}),
    "dora per output": (LoConModule, LINEAR, {"lora_dim": 4, "weight_decompose": True}, LORA | {"dora_scale"}),
    "dora per input": (
        LoConModule, LINEAR, {"lora_dim": 4, "alpha": 2, "weight_decompose": True, "wd_on_out": False},
        LORA | {"dora_scale"},
    ),
    "dora of a convolution per output": (
        LoConModule, CONV3, {"lora_dim": 4, "weight_decompose": True}, LORA | {"dora_scale"}
    ),
    "dora of a square convolution per input": (
        LoConModule, SiteShape(16, 16, (3, 3)), {"lora_dim": 4, "weight_decompose": True, "wd_on_out": False},
        LORA | {"dora_scale"},
    ),
    "loha": (LohaModule, LINEAR, {"lora_dim": 3, "alpha": 2}, LOHA),
    "loha of many ranks": (LohaModule, LINEAR, {"lora_dim": 8, "alpha": 2}, LOHA),
    "loha with a scalar": (LohaModule, LINEAR, {"lora_dim": 3, "alpha": 2, "use_scalar": True}, LOHA),
    "loha rank stabilised": (LohaModule, LINEAR, {"lora_dim": 3, "alpha": 2, "rs_lora": True}, LOHA),
    "loha of a convolution": (LohaModule, CONV3, {"lora_dim": 3, "alpha": 2}, LOHA),
    "loha with Tucker": (
        LohaModule, CONV3, {"lora_dim": 3, "alpha": 2, "use_tucker": True}, LOHA | {"hada_t1", "hada_t2"}
    ),
    "loha in dora": (LohaModule, LINEAR, {"lora_dim": 3, "weight_decompose": True}, LOHA | {"dora_scale"}),
    "lokr": (LokrModule, LINEAR, {"lora_dim": 1, "alpha": 2}, {"lokr_w1", "lokr_w2_a", "lokr_w2_b", "alpha"}),
    "lokr with both factors low-rank": (
        LokrModule, SiteShape(72, 80), {"lora_dim": 2, "alpha": 1, "decompose_both": True},
        {"lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b", "alpha"},
    ),
    "lokr with both factors whole": (LokrModule, LINEAR, {"lora_dim": 99, "alpha": 3}, {"lokr_w1", "lokr_w2", "alpha"}),
    "lokr of full matrices": (
        LokrModule, CONV3, {"full_matrix": True, "lora_dim": 4, "alpha": 2}, {"lokr_w1", "lokr_w2", "alpha"}
    ),
    "lokr the other way round": (
        LokrModule, LINEAR, {"lora_dim": 1, "alpha": 2, "unbalanced_factorization": True},
        {"lokr_w1", "lokr_w2_a", "lokr_w2_b", "alpha"},
    ),
    "lokr of a convolution": (
        LokrModule, CONV3, {"lora_dim": 2, "alpha": 1}, {"lokr_w1", "lokr_w2_a", "lokr_w2_b", "alpha"}
    ),
    "lokr with Tucker": (
        LokrModule, CONV3, {"lora_dim": 2, "alpha": 1, "use_tucker": True},
        {"lokr_w1", "lokr_w2_a", "lokr_w2_b", "lokr_t2", "alpha"},
    ),
    "lokr with a scalar": (
        LokrModule, LINEAR, {"lora_dim": 1, "alpha": 2, "use_scalar": True},
        {"lokr_w1", "lokr_w2_a", "lokr_w2_b", "alpha"},
    ),
    "lokr in dora per input": (
        LokrModule, LINEAR, {"lora_dim": 1, "weight_decompose": True, "wd_on_out": False},
        {"lokr_w1", "lokr_w2_a", "lokr_w2_b", "alpha", "dora_scale"},
    ),
    "loha beside the layer": (LohaModule, LINEAR, {"lora_dim": 3, "alpha": 2, "bypass_mode": True}, LOHA),
    "lokr beside the layer": (
        LokrModule, LINEAR, {"lora_dim": 1, "alpha": 2, "bypass_mode": True},
        {"lokr_w1", "lokr_w2_a", "lokr_w2_b", "alpha"},
    ),
    "lokr with Tucker beside the layer": (
        LokrModule, CONV3, {"lora_dim": 2, "alpha": 1, "use_tucker": True, "bypass_mode": True},
        {"lokr_w1", "lokr_w2_a", "lokr_w2_b", "lokr_t2", "alpha"},
    ),
    "ia3 beside the layer": (IA3Module, CONV3, {"bypass_mode": True}, {"weight", "on_input"}),
    "full": (FullModule, LINEAR, {}, {"diff"}),
    "full of a convolution": (FullModule, CONV3, {}, {"diff"}),
    "ia3 on outputs": (IA3Module, LINEAR, {}, {"weight", "on_input"}),
    "ia3 on inputs": (IA3Module, LINEAR, {"train_on_input": True}, {"weight", "on_input"}),
    "ia3 of a convolution": (IA3Module, CONV3, {"train_on_input": True}, {"weight", "on_input"}),
}  # fmt: skip
"""What is built: LyCORIS's module, the layer's shape, options, and the names of the tensors in a file."""

ROTATIONS: dict[str, tuple[Any, SiteShape, dict[str, Any], set[str]]] = {
    "oft": (DiagOFTModule, LINEAR, {"lora_dim": 4}, {"oft_blocks", "alpha"}),
    "oft within bounds": (DiagOFTModule, LINEAR, {"lora_dim": 4, "constraint": 0.01}, {"oft_blocks", "alpha"}),
    "oft, rescaled": (
        DiagOFTModule, CONV3, {"lora_dim": 4, "rescaled": True}, {"oft_blocks", "alpha", "rescale"}
    ),
    "boft": (ButterflyOFTModule, LINEAR, {"lora_dim": 6}, {"oft_blocks", "alpha"}),
    "boft of many stages": (
        ButterflyOFTModule, SiteShape(32, 12, (3, 3)), {"lora_dim": 4, "rescaled": True, "constraint": 0.02},
        {"oft_blocks", "alpha", "rescale"},
    ),
}  # fmt: skip
"""The same for what LyCORIS computes in single precision whatever it is given."""


def sorted_by_name(cases: dict[str, Any]) -> Any:
    return pytest.mark.parametrize("case", cases)


@sorted_by_name(CASES)
def test_the_change_is_the_one_that_lycoris_makes(case: str) -> None:
    kind, shape, options, names = CASES[case]
    told = told_by_lycoris(kind, shape, **options)

    update = read_module(by_role(told.tensors, LYCORIS_ROLES), shape)

    assert set(told.tensors) == names
    assert told.change.abs().max() > 1e-3
    # The root of a rank is stored in single precision, in alpha.
    tolerance = 1e-7 if options.get("rs_lora") else 1e-9
    torch.testing.assert_close(update.dense(told.weight), told.change, rtol=tolerance, atol=tolerance)


@sorted_by_name(ROTATIONS)
def test_the_rotation_is_the_one_that_lycoris_makes(case: str) -> None:
    kind, shape, options, names = ROTATIONS[case]
    told = told_by_lycoris(kind, shape, dtype=torch.float32, **options)

    update = read_module(by_role(told.tensors, LYCORIS_ROLES), shape)

    assert set(told.tensors) == names
    assert told.change.abs().max() > 1e-3
    torch.testing.assert_close(update.dense(told.weight), told.change, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("case", [case for case, (*_, names) in CASES.items() if "dora_scale" not in names])
def test_an_update_with_factors_is_the_product_of_them(case: str) -> None:
    kind, shape, options, _ = CASES[case]
    told = told_by_lycoris(kind, shape, **options)

    factors = read_module(by_role(told.tensors, LYCORIS_ROLES), shape).low_rank()

    if factors is not None:
        assert factors.rank <= max(shape.out_features, shape.columns)
        torch.testing.assert_close(factors.dense(), told.change, rtol=1e-7, atol=1e-7)
    else:
        assert "ia3" in case or "full" in case or "many ranks" in case


def test_dora_has_the_axis_that_it_was_trained_with() -> None:
    for on_output in (True, False):
        for shape in (LINEAR, SiteShape(16, 16), CONV3, SiteShape(16, 16, (3, 3))):
            told = told_by_lycoris(LoConModule, shape, lora_dim=4, weight_decompose=True, wd_on_out=on_output)

            update = read_module(by_role(told.tensors, LYCORIS_ROLES), shape)

            assert isinstance(update, DoRA)
            assert update.per_output is on_output


def test_dora_knows_the_roles_of_all_that_it_can_be_built_on() -> None:
    inner = frozenset().union(*(ALGORITHMS[name].required | ALGORITHMS[name].optional for name in INNER))

    assert ALGORITHMS["dora"].optional == inner | {"magnitude", "magnitude_out"}


@pytest.mark.parametrize(
    ("kind", "options", "algorithm"),
    [
        (GLoRAModule, {"lora_dim": 4}, "glora"),
        (TLoraModule, {"lora_dim": 4}, "t_lora"),
        (DyLoraModule, {"lora_dim": 4, "block_size": 2}, "lora"),
    ],
)
def test_what_is_not_moved_is_recognised_by_its_names(kind: Any, options: dict[str, Any], algorithm: str) -> None:
    told = told_by_lycoris(kind, LINEAR, **options)

    assert algorithm_of(frozenset(by_role(told.tensors, LYCORIS_ROLES))).name == algorithm


def test_a_grouped_or_flattened_convolution_of_2023_is_read_by_its_number_of_elements() -> None:
    # Writers of 2023 split 20 * 3 * 3 = 180 columns as one number, here 12 and 15.
    torch.manual_seed(1)
    first, second = torch.randn(4, 12, dtype=torch.float64), torch.randn(6, 15, dtype=torch.float64)

    update = read_module({"lokr_w1": first, "lokr_w2": second}, CONV3)

    assert torch.equal(update.dense(), torch.kron(first, second).reshape(24, 20, 3, 3))
