"""Every algorithm of peft that is read does what peft's merging does, and its files have the names that are read."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from peft import BOFTConfig, IA3Config, LoHaConfig, LoKrConfig, LoraConfig, OFTConfig, get_peft_model
from peft.tuners.boft.layer import BOFTLayer
from peft.tuners.lora.variants import QALoraLinearVariant
from torch import Tensor, nn

from lorax.adapter import LowRank, SiteShape
from lorax.algorithms import ALGORITHMS
from lorax.algorithms.boft import BOFT
from lorax.algorithms.ia3 import IA3
from lorax.algorithms.oft_packed import PackedOFT
from lorax.errors import BadFile, Unsupported
from lorax.grouped_columns import expand_grouped_down
from lorax.safe_header import ReadLimits
from tests.lorax.algorithms.oracles import (
    CONV1,
    CONV3,
    LINEAR,
    PEFT_ROLES,
    algorithm_of,
    by_role,
    entries_of,
    read_module,
    told_by_peft,
)

LORA = {"lora_A.weight", "lora_B.weight"}
HADA = {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}
TARGET = {"target_modules": ["layer"]}


def lora(**options: Any) -> LoraConfig:
    return LoraConfig(**TARGET, **{"r": 4, "lora_alpha": 6, **options})


CASES: dict[str, tuple[Any, SiteShape, float, set[str]]] = {
    "lora": (lora(), LINEAR, 6 / 4, LORA),
    "lora rank stabilised": (lora(use_rslora=True), LINEAR, 6 / math.sqrt(4), LORA),
    "convolution 1x1": (lora(), CONV1, 6 / 4, LORA),
    "convolution 3x3": (lora(), CONV3, 6 / 4, LORA),
    "convolution 2x3x3": (lora(), SiteShape(8, 6, (2, 3, 3)), 6 / 4, LORA),
    "dora": (lora(use_dora=True), LINEAR, 6 / 4, LORA | {"lora_magnitude_vector"}),
    "dora of a square layer": (lora(use_dora=True), SiteShape(16, 16), 6 / 4, LORA | {"lora_magnitude_vector"}),
    "dora of a convolution": (lora(use_dora=True), CONV3, 6 / 4, LORA | {"lora_magnitude_vector"}),
    "dora of a square convolution": (
        lora(use_dora=True), SiteShape(16, 16, (3, 3)), 6 / 4, LORA | {"lora_magnitude_vector"}
    ),
    "loha": (LoHaConfig(r=3, alpha=2, **TARGET), LINEAR, 2 / 3, HADA),
    "loha of a convolution": (LoHaConfig(r=3, alpha=2, **TARGET), CONV3, 2 / 3, HADA),
    "loha with Tucker": (
        LoHaConfig(r=3, alpha=2, use_effective_conv2d=True, **TARGET), CONV3, 2 / 3, HADA | {"hada_t1", "hada_t2"}
    ),
    "lokr": (LoKrConfig(r=1, alpha=2, **TARGET), LINEAR, 2.0, {"lokr_w1", "lokr_w2_a", "lokr_w2_b"}),
    "lokr with both factors low-rank": (
        LoKrConfig(r=2, alpha=1, decompose_both=True, **TARGET), SiteShape(72, 80), 1 / 2,
        {"lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b"},
    ),
    "lokr with both factors whole": (LoKrConfig(r=99, alpha=3, **TARGET), LINEAR, 3 / 99, {"lokr_w1", "lokr_w2"}),
    "lokr of a convolution": (
        LoKrConfig(r=2, alpha=1, **TARGET), CONV3, 1 / 2, {"lokr_w1", "lokr_w2_a", "lokr_w2_b"}
    ),
    "lokr with Tucker": (
        LoKrConfig(r=2, alpha=1, use_effective_conv2d=True, **TARGET), CONV3, 1 / 2,
        {"lokr_w1", "lokr_w2_a", "lokr_w2_b", "lokr_t2"},
    ),
    "ia3 on outputs": (IA3Config(feedforward_modules=[], **TARGET), LINEAR, 1.0, {"ia3_l"}),
    "ia3 on inputs": (IA3Config(feedforward_modules=["layer"], **TARGET), LINEAR, 1.0, {"ia3_l"}),
    "ia3 on inputs of a square layer": (
        IA3Config(feedforward_modules=["layer"], **TARGET), SiteShape(16, 16), 1.0, {"ia3_l"}
    ),
    "ia3 on outputs of a convolution": (IA3Config(feedforward_modules=[], **TARGET), CONV3, 1.0, {"ia3_l"}),
    "oft": (OFTConfig(oft_block_size=4, r=0, **TARGET), LINEAR, 1.0, {"oft_R.weight"}),
    "oft of a convolution": (OFTConfig(oft_block_size=9, r=0, **TARGET), CONV3, 1.0, {"oft_R.weight"}),
    "oft with shared blocks": (
        OFTConfig(oft_block_size=5, r=0, block_share=True, **TARGET), LINEAR, 1.0, {"oft_R.weight"}
    ),
}  # fmt: skip
"""What is built: peft's configuration, the layer's shape, the scale of a file, and the names of the tensors in it."""

SINGLE: dict[str, tuple[Any, SiteShape, set[str]]] = {
    "boft": (BOFTConfig(boft_block_size=4, **TARGET), LINEAR, {"boft_R", "boft_s"}),
    "boft of a convolution": (BOFTConfig(boft_block_size=4, **TARGET), CONV3, {"boft_R", "boft_s"}),
}
"""The same for what peft computes in single precision whatever it is given."""


def read(tensors: dict[str, Tensor], shape: SiteShape, scale: float) -> Any:
    roles = by_role(tensors, PEFT_ROLES)
    algorithm = algorithm_of(frozenset(roles))
    assert algorithm.layout is not None
    assert algorithm.decode is not None
    assert algorithm.layout(entries_of(roles), ReadLimits(rank_to_width=4)).fits(shape)
    return algorithm.decode(roles, scale, shape)


@pytest.mark.parametrize("case", CASES)
def test_the_change_is_the_one_that_peft_merges(case: str) -> None:
    config, shape, scale, names = CASES[case]
    told = told_by_peft(config, shape)

    update = read(dict(told.tensors), shape, scale)

    assert set(told.tensors) == names
    assert told.change.abs().max() > 1e-3
    # LoHa's scale is a single-precision tensor in peft.
    tolerance = 1e-6 if "loha" in case else 1e-9
    torch.testing.assert_close(update.dense(told.weight), told.change, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", SINGLE)
def test_the_rotation_is_the_one_that_peft_merges(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Otherwise peft compiles an extension for accelerators first.
    monkeypatch.setattr("peft.tuners.boft.layer.get_fbd_cuda", lambda: None)
    config, shape, names = SINGLE[case]
    told = told_by_peft(config, shape, dtype=torch.float32)

    update = read(dict(told.tensors), shape, 1.0)

    assert set(told.tensors) == names
    torch.testing.assert_close(update.dense(told.weight), told.change, rtol=1e-5, atol=2e-6)


def test_oft_with_the_exact_transform_is_the_one_that_peft_merges() -> None:
    config = OFTConfig(oft_block_size=4, r=0, use_cayley_neumann=False, **TARGET)
    told = told_by_peft(config, LINEAR, dtype=torch.float32)

    update = dataclasses.replace(read(dict(told.tensors), LINEAR, 1.0), terms=0)

    torch.testing.assert_close(update.dense(told.weight), told.change, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("terms", [1, 2, 3, 4, 5, 7])
def test_every_length_of_the_series_is_that_of_peft(terms: int) -> None:
    config = OFTConfig(oft_block_size=4, r=0, num_cayley_neumann_terms=terms, **TARGET)
    told = told_by_peft(config, LINEAR)

    update = PackedOFT(told.tensors["oft_R.weight"], terms=terms)

    torch.testing.assert_close(update.dense(told.weight), told.change, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("stages", "blocks", "size"), [(2, 6, 4), (3, 4, 4), (3, 8, 2), (2, 2, 12)])
def test_boft_of_several_stages_is_shuffled_as_peft_does(stages: int, blocks: int, size: int) -> None:
    # peft merges more than one stage on an accelerator only; its own permutations say what it would do.
    torch.manual_seed(3)
    count = blocks * size
    raw = torch.randn(stages, blocks, size, size, dtype=torch.float64) * 0.3
    layer = BOFTLayer(nn.Linear(count, 5))
    product = torch.eye(count, dtype=torch.float64)
    for stage in range(stages):
        order = layer.block_butterfly_perm(count, blocks >> stage, size // 2, stages - 1)
        shuffle = layer.perm2mat(order).double()
        turned = torch.block_diag(*_exact_rotation(raw[stage]))
        product = shuffle @ turned @ shuffle.mT @ product
    weight, factors = torch.randn(5, count, dtype=torch.float64), torch.rand(5, 1, dtype=torch.float64)

    change = BOFT(raw, factors).dense(weight)

    torch.testing.assert_close(change, (product @ weight.mT).mT * factors - weight)


def _exact_rotation(blocks: Tensor) -> Tensor:
    skew = 0.5 * (blocks - blocks.mT)
    unit = torch.eye(blocks.shape[-1], dtype=blocks.dtype)
    return (unit - skew) @ torch.linalg.inv(unit + skew)


def test_an_embedding_is_a_low_rank_change_of_its_table() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Embedding(30, 12).double()

    before = Table()
    weight = before.layer.weight.detach().clone()
    model = get_peft_model(before, lora()).double()
    tensors = {
        f"lora_embedding_{side}": getattr(model.base_model.model.layer, f"lora_embedding_{side}")["default"]
        for side in "AB"
    }
    for tensor in tensors.values():
        torch.nn.init.normal_(tensor)
    tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    roles = by_role(tensors, PEFT_ROLES)
    change = model.merge_and_unload().layer.weight.detach() - weight

    update = read(tensors, SiteShape(30, 12), 6 / 4)

    assert isinstance(update, LowRank)
    torch.testing.assert_close(update.dense(), change)
    encode = ALGORITHMS["lora_embedding"].encode
    assert encode is not None
    assert all(torch.equal(roles[role], tensor) for role, tensor in encode(update).tensors.items())


def test_a_grouped_down_factor_unfolds_to_what_qa_lora_computes() -> None:
    torch.manual_seed(5)
    down, up = (torch.randn(3, 5, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64))
    inputs = torch.randn(11, 20, dtype=torch.float64)
    layer = _QaLoRA(down, up, group=4, scaling=0.5)

    told = QALoraLinearVariant.forward(layer, "default", inputs, torch.zeros(11, 7, dtype=torch.float64))

    update = LowRank(up, expand_grouped_down(down, 4), 0.5)
    torch.testing.assert_close(inputs @ update.dense().mT, told)


class _QaLoRA(nn.Module):
    """Has what peft's variant asks a layer for; the real one needs a quantised base."""

    def __init__(self, down: Tensor, up: Tensor, *, group: int, scaling: float) -> None:
        super().__init__()
        self.in_features, self.out_features = down.shape[1] * group, up.shape[0]
        self.lora_A = nn.ModuleDict({"default": nn.Linear(down.shape[1], down.shape[0], bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(up.shape[1], up.shape[0], bias=False)})
        self.lora_A["default"].weight = nn.Parameter(down)
        self.lora_B["default"].weight = nn.Parameter(up)
        self.lora_dropout = nn.ModuleDict({"default": nn.Identity()})
        self.scaling, self.qalora_group_size = {"default": scaling}, {"default": group}


def test_factors_of_a_square_convolution_that_may_be_of_either_side_are_refused() -> None:
    with pytest.raises(Unsupported, match="16 of each"):
        read_module({"ia3_l": torch.ones(1, 16, 1, 1)}, SiteShape(16, 16, (3, 3)))


def test_numbers_that_are_not_one_for_each_of_the_side_they_scale_are_refused() -> None:
    with pytest.raises(BadFile, match="24 numbers are said to scale the inputs"):
        read_module({"ia3": torch.ones(24), "on_input": torch.tensor(1.0)}, LINEAR)


def test_an_ia3_update_says_whether_peft_scales_the_bias_too() -> None:
    outputs = read_module({"ia3_l": torch.ones(24, 1)}, LINEAR)
    inputs = read_module({"ia3_l": torch.ones(1, 20)}, LINEAR)

    assert isinstance(outputs, IA3)
    assert isinstance(inputs, IA3)
    assert (outputs.scales_bias, inputs.scales_bias) == (True, False)
