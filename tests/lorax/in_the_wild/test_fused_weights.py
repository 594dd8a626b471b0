"""Modules that hold several weights of diffusers in one: rows, ranks and strengths as loaders apply them."""

from __future__ import annotations

import pytest
import torch

from lorax.adapter import Adapter
from tests.lorax.in_the_wild.twins import BARE_PEFT, KOHYA, PEFT, Tensors, by_hand, factors, kohya, lora, noise, probe
from tests.lorax.in_the_wild.wild import FLUX, HUNYUAN, Wild, effect, site

W = 3072
DEV = {"modelspec.architecture": "flux-1-dev/lora"}
DOUBLE = "transformer_blocks.3"
SINGLE = "single_transformer_blocks.5"
PARTS = ("to_q", "to_k", "to_v")
ADDED = ("add_q_proj", "add_k_proj", "add_v_proj")


def assert_rows(
    adapter: Adapter, places: list[str], expected: torch.Tensor, vector: torch.Tensor, rows: list[int]
) -> None:
    """The sites' effects, one after the other, are the rows of the fused module's."""
    begin = 0
    for place, count in zip(places, rows, strict=True):
        found = effect(adapter.updates[site(place, "transformer")], vector)
        torch.testing.assert_close(found, expected[begin : begin + count], rtol=1e-4, atol=1e-4)
        begin += count
    assert begin == len(expected)


def test_a_fused_projection_of_flux_falls_into_its_rows(wild: Wild) -> None:
    image, text = "lora_unet_double_blocks_3_img_attn_qkv", "lora_unet_double_blocks_3_txt_attn_qkv"
    tensors = kohya(image, 3 * W, W, 4, alpha=2) | kohya(text, 3 * W, W, 4, alpha=1)
    vector = probe(W)

    adapter = wild.read(tensors, FLUX, DEV)

    assert len(adapter.updates) == 6
    for module, parts, scale in ((image, PARTS, 0.5), (text, ADDED, 0.25)):
        places = [f"{DOUBLE}.attn.{part}" for part in parts]
        assert_rows(adapter, places, by_hand(tensors, module, vector, scale=scale), vector, [W] * 3)
    assert adapter.ranks() == (4,)


def test_the_first_linear_layer_of_a_single_block_has_four_parts(wild: Wild) -> None:
    module = "lora_unet_single_blocks_5_linear1"
    tensors = kohya(module, 7 * W, W, 2, alpha=4) | kohya("lora_unet_single_blocks_5_linear2", W, 5 * W)
    vector = probe(W)

    adapter = wild.read(tensors, FLUX, DEV)

    places = [f"{SINGLE}.attn.{part}" for part in PARTS] + [f"{SINGLE}.proj_mlp"]
    assert_rows(adapter, places, by_hand(tensors, module, vector, scale=2.0), vector, [W, W, W, 4 * W])
    assert site(f"{SINGLE}.proj_out", "transformer") in adapter.updates


def split_qkv(module: str, ranks: tuple[int, ...], rows: tuple[int, ...], alpha: float) -> Tensors:
    """What sd-scripts saves after training with split_qkv: ranks stacked, ups along the diagonal, alpha untouched."""
    downs = [noise(f"{module}{index}", rank, W) for index, rank in enumerate(ranks)]
    up = torch.zeros(sum(rows), sum(ranks))
    begin = row = 0
    for index, (rank, count) in enumerate(zip(ranks, rows, strict=True)):
        up[row : row + count, begin : begin + rank] = noise(f"{module}up{index}", count, rank)
        begin, row = begin + rank, row + count
    return {module + KOHYA[0]: torch.cat(downs), module + KOHYA[1]: up, f"{module}.alpha": torch.tensor(alpha)}


@pytest.mark.parametrize("rows", [(W, W, W), (W, W, W, 4 * W)])
def test_split_qkv_has_the_strength_that_loaders_give_it_which_is_alpha_over_all_ranks(
    rows: tuple[int, ...], wild: Wild
) -> None:
    count, rank, alpha = len(rows), 4, 4.0
    double = count == 3
    module = "lora_unet_double_blocks_3_img_attn_qkv" if double else "lora_unet_single_blocks_5_linear1"
    tensors = split_qkv(module, (rank,) * count, rows, alpha)
    vector = probe(W)

    adapter = wild.read(tensors, FLUX, DEV | {"ss_network_args": '{"split_qkv": "True"}'})

    block = DOUBLE if double else SINGLE
    places = [f"{block}.attn.{part}" for part in PARTS] + ([] if double else [f"{block}.proj_mlp"])
    expected = by_hand(tensors, module, vector, scale=alpha / (count * rank))
    assert_rows(adapter, places, expected, vector, list(rows))
    assert adapter.ranks() == (rank,)
    assert set(adapter.scales().values()) == {alpha / (count * rank)}


def test_blocks_of_unequal_rank_fall_apart_exactly(wild: Wild) -> None:
    module = "lora_unet_double_blocks_3_img_attn_qkv"
    tensors = split_qkv(module, (2, 5, 3), (W, W, W), 10.0)
    vector = probe(W)

    adapter = wild.read(tensors, FLUX, DEV)

    places = [f"{DOUBLE}.attn.{part}" for part in PARTS]
    assert_rows(adapter, places, by_hand(tensors, module, vector, scale=1.0), vector, [W] * 3)
    assert adapter.ranks() == (2, 3, 5)


def test_a_part_whose_block_is_zero_is_left_out(wild: Wild) -> None:
    module = "lora_unet_double_blocks_3_img_attn_qkv"
    tensors = split_qkv(module, (2, 2, 2), (W, W, W), 6.0)
    tensors[module + KOHYA[1]][W : 2 * W] = 0

    adapter = wild.read(tensors, FLUX, DEV)

    assert {each.path.rpartition(".")[2] for each in adapter.updates} == {"to_q", "to_v"}


def test_the_last_modulation_of_flux_has_its_halves_the_other_way_round(wild: Wild) -> None:
    module = "lora_unet_final_layer_adaLN_modulation_1"
    tensors = kohya(module, 2 * W, W, 2, alpha=2)
    vector = probe(W)

    adapter = wild.read(tensors, FLUX, DEV)

    shift, scale = by_hand(tensors, module, vector, scale=1.0).chunk(2)
    found = effect(adapter.updates[site("norm_out.linear", "transformer")], vector)
    torch.testing.assert_close(found, torch.cat([scale, shift]))


def test_xlabs_single_blocks_hold_the_first_rows_of_a_layer_only(wild: Wild) -> None:
    ends = (".down.weight", ".up.weight")
    single = "single_blocks.5.processor.qkv_lora"
    first, second = "double_blocks.3.processor.qkv_lora1", "double_blocks.3.processor.qkv_lora2"
    tensors = lora(single, 3 * W, W, 4, ends=ends) | lora(first, 3 * W, W, 4, ends=ends)
    tensors |= lora(second, 3 * W, W, 4, ends=ends) | lora("double_blocks.3.processor.proj_lora2", W, W, ends=ends)
    tensors |= lora("single_blocks.5.processor.proj_lora", W, 5 * W, ends=ends)
    vector = probe(W)

    adapter = wild.read(tensors, FLUX, labels=["Flux.1 D"])

    assert adapter.dialect == "xlabs"
    for module, block, parts in ((single, SINGLE, PARTS), (first, DOUBLE, PARTS), (second, DOUBLE, ADDED)):
        expected = by_hand(tensors, module, vector, scale=1.0, ends=ends)
        assert_rows(adapter, [f"{block}.attn.{part}" for part in parts], expected, vector, [W] * 3)
    assert site(f"{SINGLE}.proj_mlp", "transformer") not in adapter.updates
    assert site(f"{DOUBLE}.attn.to_add_out", "transformer") in adapter.updates


def test_xlabs_files_with_comfyuis_prefix_are_xlabs_all_the_same(wild: Wild) -> None:
    ends = (".down.weight", ".up.weight")
    tensors = lora("diffusion_model.double_blocks.0.processor.proj_lora1", W, W, ends=ends)

    adapter = wild.read(tensors, FLUX, labels=["Flux.1 D"])

    assert adapter.dialect == "xlabs"
    assert set(adapter.updates) == {site("transformer_blocks.0.attn.to_out.0", "transformer")}


def test_a_control_lora_has_biases_and_norms_that_replace(wild: Wild) -> None:
    qkv, first = "double_blocks.3.img_attn.qkv", "img_in"
    tensors = lora(qkv, 3 * W, W, 4, ends=PEFT) | lora(first, W, 128, 4, ends=PEFT)
    tensors |= lora("single_blocks.5.linear1", 7 * W, W, 2, ends=PEFT) | lora("final_layer.linear", 64, W, ends=PEFT)
    tensors[f"{qkv}.lora_B.bias"] = noise("bias", 3 * W)
    tensors[f"{first}.lora_B.bias"] = noise("first bias", W)
    scales = [
        f"double_blocks.3.{stream}_attn.norm.{kind}_norm.scale"
        for stream in ("img", "txt")
        for kind in ("query", "key")
    ]
    tensors |= {name: noise(name, 128) for name in (*scales, "single_blocks.5.norm.query_norm.scale")}
    vector = probe(W)

    adapter = wild.read(tensors, FLUX)

    assert (adapter.base.name, adapter.dialect) == ("flux1-control", "bfl_control")
    assert adapter.saved.keys() == {name for name in tensors if name.endswith("_norm.scale")}
    assert torch.equal(adapter.saved[scales[0]], tensors[scales[0]])
    expected = by_hand(tensors, qkv, vector, scale=1.0, ends=PEFT)
    assert_rows(adapter, [f"{DOUBLE}.attn.{part}" for part in PARTS], expected, vector, [W] * 3)
    for index, part in enumerate(PARTS):
        bias = adapter.vectors[site(f"{DOUBLE}.attn.{part}.bias", "transformer")]
        assert torch.equal(bias, tensors[f"{qkv}.lora_B.bias"][index * W : (index + 1) * W])
    assert adapter.updates[site("x_embedder", "transformer")].dense().shape == (W, 128)


def test_the_token_refiner_of_hunyuan_keeps_its_whole_down_factor(wild: Wild) -> None:
    # diffusers' converter cut this down factor in three; ComfyUI and the model's own code do not.
    module = "lora_unet_txt_in_individual_token_refiner_blocks_1_self_attn_qkv"
    tensors = kohya(module, 3 * W, W, 3, alpha=3)
    vector = probe(W)

    adapter = wild.read(tensors, HUNYUAN, {"ss_base_model_version": "hunyuan_video"})

    start = "context_embedder.token_refiner.refiner_blocks.1.attn"
    expected = by_hand(tensors, module, vector, scale=1.0)
    assert_rows(adapter, [f"{start}.{part}" for part in PARTS], expected, vector, [W] * 3)
    _, down = factors(tensors, module)
    assert torch.equal(adapter.low_rank()[site(f"{start}.to_k", "transformer")].down, down)


def test_fused_names_of_black_forest_labs_in_a_folder_of_peft(wild: Wild) -> None:
    # fal's Kontext trainer: BFL's modules behind peft's prefix.
    module = "base_model.model.double_blocks.3.img_attn.qkv"
    tensors = lora(module, 3 * W, W, 4, ends=PEFT)
    vector = probe(W)

    adapter = wild.read(
        tensors,
        FLUX,
        config={
            "peft_type": "LORA",
            "r": 4,
            "lora_alpha": 8,
            "base_model_name_or_path": "black-forest-labs/FLUX.1-Kontext-dev",
        },
    )

    assert (adapter.base.name, adapter.dialect) == ("flux1-dev", "peft")
    expected = by_hand(tensors, module, vector, scale=2.0, ends=PEFT)
    assert_rows(adapter, [f"{DOUBLE}.attn.{part}" for part in PARTS], expected, vector, [W] * 3)


def test_lora_a_without_weight_is_lora_a(wild: Wild) -> None:
    module = "diffusion_model.double_blocks.3.img_attn.qkv"
    tensors = lora(module, 3 * W, W, 4, ends=BARE_PEFT)
    vector = probe(W)

    adapter = wild.read(tensors, FLUX, DEV)

    assert adapter.dialect == "comfyui"
    expected = by_hand(tensors, module, vector, scale=1.0, ends=BARE_PEFT)
    assert_rows(adapter, [f"{DOUBLE}.attn.{part}" for part in PARTS], expected, vector, [W] * 3)
