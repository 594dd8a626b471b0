"""Every algebra that trainers write, at true names and sizes, worked out by hand from the raw tensors."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor

from lorax.adapter import Adapter, Site
from tests.lorax.in_the_wild.twins import kohya, lora, noise
from tests.lorax.in_the_wild.wild import Wild, site

# proj_in of SD1 is a 1x1 convolution, conv1 and the downsampler are 3x3, to_q is linear.
LINEAR = (
    "down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
)
CONV = ("down_blocks_0_resnets_0_conv1", "down_blocks.0.resnets.0.conv1")
DOWN = ("down_blocks_0_downsamplers_0_conv", "down_blocks.0.downsamplers.0.conv")
ONE = ("down_blocks_0_attentions_0_proj_in", "down_blocks.0.attentions.0.proj_in")
LYCORIS = {"ss_network_module": "lycoris.kohya"}


def change(adapter: Adapter, path: str, weight: Tensor | None = None) -> Tensor:
    return adapter.updates[site(path)].dense(weight)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


# -- low rank ---------------------------------------------------------------------------------------------------------
def test_locon_multiplies_the_taps_into_the_down_factor(wild: Wild) -> None:
    tensors = lora(f"lora_unet_{CONV[0]}", 320, 320, 4, alpha=2, kernel=(3, 3))
    tensors |= lora(f"lora_unet_{ONE[0]}", 320, 320, 4, alpha=4, kernel=(1, 1))

    adapter = wild.read(tensors, ["sd1.5"])

    for (name, path), scale in ((CONV, 0.5), (ONE, 1.0)):
        up, down = (tensors[f"lora_unet_{name}.lora_{side}.weight"] for side in ("up", "down"))
        expected = scale * torch.einsum("or,rikl->oikl", up[:, :, 0, 0], down)
        close(change(adapter, path), expected)


def test_a_tucker_core_lies_between_two_factors(wild: Wild) -> None:
    module = f"lora_unet_{CONV[0]}"
    tensors = lora(module, 320, 320, 4, alpha=1, kernel=(1, 1))
    tensors[f"{module}.lora_mid.weight"] = core = noise("core", 4, 4, 3, 3)

    adapter = wild.read(tensors, ["sd1.5"])

    up, down = (tensors[f"{module}.lora_{side}.weight"][:, :, 0, 0] for side in ("up", "down"))
    close(change(adapter, CONV[1]), 0.25 * torch.einsum("or,rskl,si->oikl", up, core, down))


def test_loha_is_the_elementwise_product_of_two_products(wild: Wild) -> None:
    module = f"lora_unet_{LINEAR[0]}"
    a1, b1, a2, b2 = noise("a1", 640, 4), noise("b1", 4, 768), noise("a2", 640, 4), noise("b2", 4, 768)
    tensors = {
        f"{module}.hada_w1_a": a1,
        f"{module}.hada_w1_b": b1,
        f"{module}.hada_w2_a": a2,
        f"{module}.hada_w2_b": b2,
    }
    tensors[f"{module}.alpha"] = torch.tensor(2.0)

    adapter = wild.read(tensors, ["sd1.5"], LYCORIS)

    assert adapter.algorithms == ("loha",)
    close(change(adapter, LINEAR[1]), 0.5 * (a1 @ b1) * (a2 @ b2))


def test_loha_with_cores_has_its_outer_factors_the_other_way_round(wild: Wild) -> None:
    module = f"lora_unet_{CONV[0]}"
    factors = {name: noise(name, 4, 320) for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")} | {
        name: noise(name, 4, 4, 3, 3) for name in ("hada_t1", "hada_t2")
    }
    tensors = {f"{module}.{name}": tensor for name, tensor in factors.items()} | {f"{module}.alpha": torch.tensor(4.0)}

    adapter = wild.read(tensors, ["sd1.5"], LYCORIS)

    one, two = (
        torch.einsum("ijkl,jr,ip->prkl", factors[f"hada_t{n}"], factors[f"hada_w{n}_b"], factors[f"hada_w{n}_a"])
        for n in (1, 2)
    )
    close(change(adapter, CONV[1]), one * two)


# -- Kronecker products -----------------------------------------------------------------------------------------------
def kron(first: Tensor, second: Tensor) -> Tensor:
    """The product worked out index by index, not with torch.kron."""
    rows, columns = first.shape[0] * second.shape[0], first.shape[1] * second.shape[1]
    return torch.einsum("ac,bd->abcd", first, second).reshape(rows, columns)


@pytest.mark.parametrize(("rows", "columns"), [(16, 32), (40, 24)])
def test_lokr_of_either_order_of_factors_is_taken_as_it_is(rows: int, columns: int, wild: Wild) -> None:
    # Which factor is the larger one changed between versions of LyCORIS.
    module = f"lora_unet_{LINEAR[0]}"
    first, second_a, second_b = noise("1", rows, columns), noise("2a", 640 // rows, 4), noise("2b", 4, 768 // columns)
    tensors = {f"{module}.lokr_w1": first, f"{module}.lokr_w2_a": second_a, f"{module}.lokr_w2_b": second_b}
    tensors[f"{module}.alpha"] = torch.tensor(1.0)

    adapter = wild.read(tensors, ["sd1.5"], LYCORIS)

    close(change(adapter, LINEAR[1]), 0.25 * kron(first, second_a @ second_b))


def test_lokr_of_2023_split_a_convolution_with_its_taps_as_one_number(wild: Wild) -> None:
    # (320, 320 * 9) as (16 * 20, 48 * 60): neither 48 nor 60 is a share of the 320 inputs times whole taps.
    module = f"lora_unet_{CONV[0]}"
    first, second = noise("w1", 16, 48), noise("w2", 20, 60)
    tensors = {f"{module}.lokr_w1": first, f"{module}.lokr_w2": second, f"{module}.alpha": torch.tensor(1.0)}

    adapter = wild.read(tensors, ["sd1.5"], LYCORIS)

    close(change(adapter, CONV[1]), kron(first, second).reshape(320, 320, 3, 3))


def test_lokr_with_taps_of_its_own_keeps_them(wild: Wild) -> None:
    module = f"lora_unet_{CONV[0]}"
    first, second = noise("w1", 16, 8), noise("w2", 20, 40, 3, 3)
    tensors = {f"{module}.lokr_w1": first, f"{module}.lokr_w2": second}

    adapter = wild.read(tensors, ["sd1.5"], LYCORIS)

    expected = torch.einsum("ac,bdkl->abcdkl", first, second).reshape(320, 320, 3, 3)
    close(change(adapter, CONV[1]), expected)


@pytest.mark.parametrize("alpha", [1.0, 9999999999.0, 0.0])
def test_an_alpha_says_nothing_where_both_factors_of_lokr_are_whole(alpha: float, wild: Wild) -> None:
    module = f"lora_unet_{LINEAR[0]}"
    first, second = noise("w1", 16, 16), noise("w2", 40, 48)
    tensors = {f"{module}.lokr_w1": first, f"{module}.lokr_w2": second, f"{module}.alpha": torch.tensor(alpha)}

    adapter = wild.read(tensors, ["sd1.5"], LYCORIS)

    close(change(adapter, LINEAR[1]), kron(first, second))
    assert not adapter.notes


def test_whole_lokr_of_ai_toolkit_for_flux(wild: Wild) -> None:
    module = "transformer.transformer_blocks.3.attn.to_q"
    first, second = noise("w1", 4, 4), noise("w2", 768, 768)
    tensors = {f"{module}.lokr_w1": first, f"{module}.lokr_w2": second, f"{module}.alpha": torch.tensor(9999999999.0)}

    adapter = wild.read(tensors, ["flux1-dev"], {"software": '{"name": "ai-toolkit"}'})

    assert (adapter.dialect, adapter.algorithms) == ("ai_toolkit", ("lokr",))
    found = adapter.updates[site("transformer_blocks.3.attn.to_q", "transformer")].dense()
    close(found[768:776, :8], (first[1, 0] * second)[:8, :8])
    assert found.shape == (3072, 3072)


def test_lokr_on_a_fused_weight_of_flux_says_that_it_cannot_be_divided(wild: Wild) -> None:
    module = "lycoris_double_blocks_3_img_attn_qkv"
    tensors = {f"{module}.lokr_w1": noise("w1", 16, 16), f"{module}.lokr_w2": noise("w2", 576, 192)}

    refusal = wild.refusal(tensors, ["flux1-dev"])

    assert refusal.reason == "unsupported-algorithm"
    assert "LoKr" in refusal.message
    assert "rows" in refusal.message


def test_loha_on_a_fused_weight_of_flux_falls_into_rows(wild: Wild) -> None:
    module = "lora_unet_double_blocks_3_img_attn_qkv"
    a1, b1, a2, b2 = noise("a1", 9216, 2), noise("b1", 2, 3072), noise("a2", 9216, 2), noise("b2", 2, 3072)
    tensors = {
        f"{module}.hada_w1_a": a1,
        f"{module}.hada_w1_b": b1,
        f"{module}.hada_w2_a": a2,
        f"{module}.hada_w2_b": b2,
    }

    adapter = wild.read(tensors, ["flux1-dev"], LYCORIS)

    found = adapter.updates[site("transformer_blocks.3.attn.to_v", "transformer")].dense()
    close(found[:4], (a1[6144:6148] @ b1) * (a2[6144:6148] @ b2))


# -- whole changes ----------------------------------------------------------------------------------------------------
def test_whole_changes_of_weights_biases_and_norms(wild: Wild) -> None:
    start = "lora_unet_down_blocks_0_resnets_0"
    tensors = {
        f"{start}_conv1.diff": noise("d", 320, 320, 3, 3),
        f"{start}_conv1.diff_b": noise("b", 320),
        f"{start}_norm1.w_norm": noise("w", 320),
        f"{start}_norm1.b_norm": noise("bn", 320),
    }

    adapter = wild.read(tensors, ["sd1.5"], LYCORIS)

    assert adapter.algorithms == ("full",)
    assert torch.equal(change(adapter, CONV[1]), tensors[f"{start}_conv1.diff"])
    assert {each.path for each in adapter.vectors} == {
        "down_blocks.0.resnets.0.conv1.bias",
        "down_blocks.0.resnets.0.norm1.weight",
        "down_blocks.0.resnets.0.norm1.bias",
    }
    assert torch.equal(adapter.vectors[site("down_blocks.0.resnets.0.norm1.weight")], tensors[f"{start}_norm1.w_norm"])


def test_mixed_algorithms_in_one_file_are_each_read_by_their_own_rule(wild: Wild) -> None:
    tensors = kohya(f"lora_unet_{LINEAR[0]}", 640, 768, 4, alpha=2)
    tensors[f"lora_unet_{CONV[0]}.lokr_w1"] = first = noise("w1", 16, 16)
    tensors[f"lora_unet_{CONV[0]}.lokr_w2"] = second = noise("w2", 20, 20, 3, 3)
    tensors[f"lora_unet_{DOWN[0]}.diff"] = noise("d", 320, 320, 3, 3)
    args = json.dumps({"preset": "full", "algo": "lokr"})

    adapter = wild.read(tensors, ["sd1.5"], LYCORIS | {"ss_network_args": args})

    assert adapter.algorithms == ("full", "lokr", "lora")
    expected = torch.einsum("ac,bdkl->abcdkl", first, second).reshape(320, 320, 3, 3)
    close(change(adapter, CONV[1]), expected)
    assert adapter.scales()[f"unet:{LINEAR[1]}"] == 0.5
    assert math.prod(change(adapter, DOWN[1]).shape) == 320 * 320 * 9
    assert Site("unet", DOWN[1]) in adapter.updates
