"""Slips and habits of tools in the names of tensors, and dialects that differ in a word only."""

from __future__ import annotations

import pytest
import torch

from tests.lorax.in_the_wild.twins import (
    BARE_PEFT,
    KOHYA,
    PEFT,
    Tensors,
    by_hand,
    clip_file,
    kohya,
    lora,
    noise,
    peft,
    probe,
)
from tests.lorax.in_the_wild.wild import FLUX, HUNYUAN, UNETS, WAN, Wild, effect, site

W = 3072
DEV = ["Flux.1 D"]
BLOCK = "down_blocks_1_attentions_0_transformer_blocks_0_attn1"
PATH = "down_blocks.1.attentions.0.transformer_blocks.0.attn1"
SD = ["SD 1.5"]


def t5(prefix: str, layer: int = 3) -> Tensors:
    return kohya(f"{prefix}encoder_block_{layer}_layer_0_SelfAttention_q", 4096, 4096)


# -- text encoders ----------------------------------------------------------------------------------------------------
def test_sd_scripts_calls_the_t5_of_flux_te3(wild: Wild) -> None:
    tensors = t5("lora_te3_") | kohya("lora_te1_text_model_encoder_layers_0_self_attn_q_proj", 768, 768)

    adapter = wild.read(tensors, FLUX, {"ss_network_module": "networks.lora_flux"}, labels=DEV)

    assert adapter.dialect == "kohya"
    assert set(adapter.updates) == {
        site("encoder.block.3.layer.0.SelfAttention.q", "text_encoder_2"),
        site("text_model.encoder.layers.0.self_attn.q_proj", "text_encoder"),
    }


@pytest.mark.parametrize("number", [2, 3])
def test_onetrainer_calls_the_t5_of_flux_te2_and_a_number_never_decides(number: int, wild: Wild) -> None:
    tensors = t5(f"lora_te{number}_") | kohya("lora_transformer_transformer_blocks_0_attn_to_q", W, W)

    adapter = wild.read(tensors, ["flux1-dev"], {"ot_branch": "master", "ot_revision": "abc"})

    assert adapter.dialect == "onetrainer"
    assert set(adapter.updates) == {
        site("encoder.block.3.layer.0.SelfAttention.q", "text_encoder_2"),
        site("transformer_blocks.0.attn.to_q", "transformer"),
    }


def test_onetrainers_split_names_behind_lora_transformer_need_no_signature(wild: Wild) -> None:
    tensors = kohya("lora_transformer_single_transformer_blocks_5_proj_mlp", 4 * W, W)
    tensors |= kohya("lora_transformer_transformer_blocks_5_attn_add_k_proj", W, W)

    adapter = wild.read(tensors, ["flux1-dev", "sd1.5"])

    assert adapter.dialect == "onetrainer"
    assert site("single_transformer_blocks.5.proj_mlp", "transformer") in adapter.updates


def test_a_text_projection_is_patched_where_the_base_has_one_and_left_out_where_not(wild: Wild) -> None:
    projections = kohya("lora_te1_text_projection", 768, 768) | kohya("lora_te2_text_projection", 1280, 1280)
    tensors = projections | clip_file("lora_te2_", 1, 1280) | kohya("lora_unet_middle_block_1_proj_in", 1280, 1280)

    adapter = wild.read(tensors, ["sdxl"])

    assert site("text_projection", "text_encoder_2") in adapter.updates
    assert {name for name, _ in adapter.unmappable} == {name for name in tensors if name.startswith("lora_te1_text_p")}


@pytest.mark.parametrize("level", ["text_model_", ""])
def test_text_encoders_with_and_without_the_level_that_transformers_removed(level: str, wild: Wild) -> None:
    tensors = kohya(f"lora_te_{level}encoder_layers_0_mlp_fc1", 3072, 768)

    adapter = wild.read(tensors, ["sd1.5", "sd2.1"])

    assert set(adapter.updates) == {site("text_model.encoder.layers.0.mlp.fc1", "text_encoder")}


def test_embeddings_bundled_by_onetrainer_are_left_out_with_a_reason(wild: Wild) -> None:
    tensors = kohya(f"lora_unet_{BLOCK}_to_q", 640, 640)
    tensors |= {"bundle_emb.sks.clip_l": noise("l", 2, 768), "bundle_emb.sks.clip_g_out": noise("g", 2, 1280)}

    adapter = wild.read(tensors, ["sdxl"], {"ot_branch": "master"})

    assert {name for name, _ in adapter.unmappable} == {"bundle_emb.sks.clip_l", "bundle_emb.sks.clip_g_out"}
    assert all("textual inversion" in reason for _, reason in adapter.unmappable)


@pytest.mark.parametrize("ending", ["string_to_param", "clip_l"])
def test_embeddings_bundled_by_lycoris_are_left_out_with_a_reason(ending: str, wild: Wild) -> None:
    tensors = kohya(f"lora_unet_{BLOCK}_to_q", 640, 640) | {f"bundle_emb.sks.{ending}": noise("l", 2, 768)}

    adapter = wild.read(tensors, ["sd1.5"], {"ss_network_module": "lycoris.kohya"})

    assert adapter.dialect == "lycoris"
    assert [name for name, _ in adapter.unmappable] == [f"bundle_emb.sks.{ending}"]


# -- slips ------------------------------------------------------------------------------------------------------------
def test_the_double_underscore_of_wan_fun_is_one(wild: Wild) -> None:
    tensors = kohya("lora_unet__blocks_3_self_attn_q", 1536, 1536) | kohya("lora_unet__blocks_3_ffn_0", 8960, 1536)

    adapter = wild.read(tensors, WAN)

    assert adapter.base.name == "wan2.1-t2v-1.3b"
    assert set(adapter.updates) == {
        site("blocks.3.attn1.to_q", "transformer"),
        site("blocks.3.ffn.net.0.proj", "transformer"),
    }


def test_an_underscore_behind_a_name_is_dropped(wild: Wild) -> None:
    tensors = kohya(f"lora_unet_{BLOCK}_to_k_", 640, 640) | kohya(f"lora_unet_{BLOCK}_to_q", 640, 640)

    adapter = wild.read(tensors, UNETS, labels=SD)

    assert set(adapter.updates) == {site(f"{PATH}.to_k"), site(f"{PATH}.to_q")}


def test_the_doubled_prefix_of_a_file_made_by_hand_is_refused_and_shown(wild: Wild) -> None:
    refusal = wild.refusal(kohya(f"lora_unet_unet_{BLOCK}_to_q", 640, 640), UNETS)

    assert refusal.reason == "base-unknown"
    assert "lora_unet_unet_down_blocks" in refusal.message


@pytest.mark.parametrize(
    "ends",
    [
        PEFT,
        BARE_PEFT,
        (".lora_A.default.weight", ".lora_B.default.weight"),
        (".lora.down.weight", ".lora.up.weight"),
        KOHYA,
    ],
)
def test_every_spelling_of_two_factors_behind_a_path_of_diffusers(ends: tuple[str, str], wild: Wild) -> None:
    module = "transformer.transformer_blocks.7.attn.to_k"
    tensors = lora(module, W, W, 3, ends=ends)
    vector = probe(W)

    adapter = wild.read(tensors, FLUX, labels=DEV)

    found = effect(adapter.updates[site("transformer_blocks.7.attn.to_k", "transformer")], vector)
    torch.testing.assert_close(found, by_hand(tensors, module, vector, scale=1.0, ends=ends))


def test_an_alpha_beside_factors_of_diffusers_is_heard(wild: Wild) -> None:
    module = "transformer.transformer_blocks.7.attn.to_k"
    tensors = peft(module, W, W, 4) | {f"{module}.alpha": torch.tensor(1.0)}

    adapter = wild.read(tensors, FLUX, labels=DEV)

    assert set(adapter.scales().values()) == {0.25}


# -- one family, several spellings ------------------------------------------------------------------------------------
@pytest.mark.parametrize("prefix", ["diffusion_model.", "transformer.", ""])
def test_native_names_of_hunyuan_behind_several_prefixes(prefix: str, wild: Wild) -> None:
    module = f"{prefix}double_blocks.3.img_attn_qkv"
    tensors = peft(module, 3 * W, W) | peft(f"{prefix}double_blocks.3.img_mlp.fc1", 4 * W, W)

    adapter = wild.read(tensors, HUNYUAN, labels=["Hunyuan Video"])

    start = "transformer_blocks.3"
    paths = {f"{start}.attn.to_q", f"{start}.attn.to_k", f"{start}.attn.to_v", f"{start}.ff.net.0.proj"}
    assert {each.path for each in adapter.updates} == paths


@pytest.mark.parametrize(
    ("module", "path"),
    [
        ("diffusion_model.blocks.3.cross_attn.k_img", "blocks.3.attn2.add_k_proj"),
        ("transformer.blocks.3.cross_attn.k_img", "blocks.3.attn2.add_k_proj"),
        ("blocks.3.cross_attn.k_img", "blocks.3.attn2.add_k_proj"),
        ("lora_unet_blocks_3_cross_attn_k_img", "blocks.3.attn2.add_k_proj"),
        ("transformer.blocks.3.attn2.add_k_proj", "blocks.3.attn2.add_k_proj"),
        ("lycoris_blocks_3_cross_attn_k_img", "blocks.3.attn2.add_k_proj"),
    ],
)
def test_one_projection_of_wan_in_six_spellings(module: str, path: str, wild: Wild) -> None:
    ends = KOHYA if module.startswith("l") else PEFT

    adapter = wild.read(lora(module, 5120, 5120, ends=ends), WAN)

    assert adapter.base.name == "wan2.1-i2v-14b"
    assert set(adapter.updates) == {site(path, "transformer")}


def test_distilled_wan_mixes_low_rank_with_whole_changes_of_weights_biases_and_norms(wild: Wild) -> None:
    start = "diffusion_model.blocks.3"
    module = f"{start}.self_attn.q"
    tensors = lora(module, 1536, 1536, 4, ends=KOHYA) | {
        f"{module}.diff_b": noise("qb", 1536),
        f"{start}.self_attn.norm_q.diff": noise("nq", 1536),
        f"{start}.norm3.diff": noise("n3", 1536),
        f"{start}.norm3.diff_b": noise("n3b", 1536),
        "diffusion_model.head.head.diff": noise("head", 64, 1536),
        "diffusion_model.head.head.diff_b": noise("headb", 64),
        "diffusion_model.patch_embedding.diff": noise("patch", 1536, 16, 1, 2, 2),
        "diffusion_model.patch_embedding.diff_b": noise("patchb", 1536),
        "diffusion_model.time_embedding.0.diff_b": noise("time", 1536),
    }

    adapter = wild.read(tensors, WAN)

    assert (adapter.base.name, adapter.dialect) == ("wan2.1-t2v-1.3b", "comfyui")
    assert adapter.algorithms == ("full", "lora")
    names = {
        "blocks.3.attn1.to_q.bias": f"{module}.diff_b",
        "blocks.3.attn1.norm_q.weight": f"{start}.self_attn.norm_q.diff",
        "blocks.3.norm2.weight": f"{start}.norm3.diff",
        "blocks.3.norm2.bias": f"{start}.norm3.diff_b",
        "proj_out.bias": "diffusion_model.head.head.diff_b",
        "patch_embedding.bias": "diffusion_model.patch_embedding.diff_b",
        "condition_embedder.time_embedder.linear_1.bias": "diffusion_model.time_embedding.0.diff_b",
    }
    assert {each.path for each in adapter.vectors} == set(names)
    for path, name in names.items():
        assert torch.equal(adapter.vectors[site(path, "transformer")], tensors[name])
    for path, name in (("proj_out", "head.head"), ("patch_embedding", "patch_embedding")):
        dense = adapter.updates[site(path, "transformer")].dense()
        assert torch.equal(dense, tensors[f"diffusion_model.{name}.diff"])


def test_a_norm_of_the_attention_to_an_image_is_of_image_to_video(wild: Wild) -> None:
    tensors = peft("diffusion_model.blocks.3.cross_attn.k_img", 5120, 5120)
    tensors["diffusion_model.blocks.3.cross_attn.norm_k_img.diff"] = noise("n", 5120)

    adapter = wild.read(tensors, WAN)

    assert adapter.base.name == "wan2.1-i2v-14b"
    assert set(adapter.vectors) == {site("blocks.3.attn2.norm_added_k.weight", "transformer")}


@pytest.mark.parametrize(
    "ends",
    [BARE_PEFT, (".lora_A.default.weight", ".lora_B.default.weight"), PEFT, (".lora_down.weight", ".lora_up.weight")],
)
@pytest.mark.parametrize("prefix", ["diffusion_model.", "transformer.", ""])
def test_qwen_image_in_the_spellings_that_its_trainers_use(prefix: str, ends: tuple[str, str], wild: Wild) -> None:
    module = f"{prefix}transformer_blocks.7.img_mlp.net.0.proj"
    tensors = lora(module, 4 * W, W, ends=ends) | lora(f"{prefix}transformer_blocks.7.attn.add_q_proj", W, W, ends=ends)

    adapter = wild.read(tensors, ["qwen-image", "flux1-dev", "hunyuan-video-t2v"])

    assert adapter.base.name == "qwen-image"
    assert len(adapter.updates) == 2


def test_musubi_and_sd_scripts_write_the_same_names_for_flux_and_differ_by_signature(wild: Wild) -> None:
    tensors = kohya("lora_unet_double_blocks_0_img_mlp_0", 4 * W, W)

    plain = wild.read(tensors, FLUX, labels=DEV)
    signed = wild.read(
        tensors, FLUX, {"ss_network_module": "networks.lora_flux", "ss_base_model_version": "flux_kontext"}
    )

    assert (plain.dialect, signed.dialect) == ("kohya", "musubi")
    assert plain.updates.keys() == signed.updates.keys()


# -- strength ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "alpha",
    [torch.tensor(2.0), torch.tensor([2.0]), torch.tensor([[2.0]]), torch.tensor(2.0).bfloat16(), torch.tensor(2)],
)
def test_alpha_of_any_shape_and_type_is_divided_by_the_rank_of_its_own_module(alpha: torch.Tensor, wild: Wild) -> None:
    first, second = f"lora_unet_{BLOCK}_to_q", f"lora_unet_{BLOCK}_to_v"
    tensors = kohya(first, 640, 640, 4) | kohya(second, 640, 640, 16)
    tensors |= {f"{first}.alpha": alpha, f"{second}.alpha": alpha}

    adapter = wild.read(tensors, ["sd1.5"])

    assert adapter.scales() == {f"unet:{PATH}.to_q": 0.5, f"unet:{PATH}.to_v": 0.125}
    assert adapter.ranks() == (4, 16)


def test_a_file_without_any_alpha_is_applied_as_it_is_whatever_its_ranks(wild: Wild) -> None:
    tensors = kohya(f"lora_unet_{BLOCK}_to_q", 640, 640, 4, None) | kohya(f"lora_unet_{BLOCK}_to_v", 640, 640, 7, None)

    adapter = wild.read(tensors, ["sd1.5"], {"ss_network_alpha": "1"})

    assert set(adapter.scales().values()) == {1.0}


def test_an_alpha_of_zero_means_the_rank_and_is_told(wild: Wild) -> None:
    tensors = kohya(f"lora_unet_{BLOCK}_to_q", 640, 640, 4, 0.0)

    adapter = wild.read(tensors, ["sd1.5"])

    assert set(adapter.scales().values()) == {1.0}
    assert any("alpha is 0" in note for note in adapter.notes)


def test_one_module_without_alpha_beside_others_is_told_by_inspection(wild: Wild) -> None:
    tensors = kohya(f"lora_unet_{BLOCK}_to_q", 640, 640, 4) | kohya(f"lora_unet_{BLOCK}_to_v", 640, 640, 4, None)

    found = wild.look(tensors, ["sd1.5"])

    assert [finding.code for finding in found.health] == ["alpha-missing"]


# -- other generations of diffusers -----------------------------------------------------------------------------------
@pytest.mark.parametrize("component", ["", "unet."])
def test_attention_processors_of_2023_with_and_without_the_component(component: str, wild: Wild) -> None:
    start = f"{component}{PATH}.processor"
    ends = ("_lora.down.weight", "_lora.up.weight")
    tensors: Tensors = {}
    for part in ("to_q", "to_k", "to_v", "to_out"):
        tensors |= lora(f"{start}.{part}", 640, 640, 4, ends=ends)

    adapter = wild.read(tensors, ["sd1.5"])

    assert adapter.dialect == "diffusers_old"
    assert {each.path for each in adapter.updates} == {
        f"{PATH}.{part}" for part in ("to_q", "to_k", "to_v", "to_out.0")
    }


@pytest.mark.parametrize("inner", ["to_q_lora.{}.weight", "q_proj.lora_linear_layer.{}.weight"])
def test_both_text_encoder_spellings_of_2023(inner: str, wild: Wild) -> None:
    start = "text_encoder.text_model.encoder.layers.4.self_attn"
    tensors = {
        f"{start}.{inner.format('down')}": noise("d", 4, 768),
        f"{start}.{inner.format('up')}": noise("u", 768, 4),
    }
    tensors |= lora(f"unet.{PATH}.processor.to_q", 640, 640, 4, ends=("_lora.down.weight", "_lora.up.weight"))

    adapter = wild.read(tensors, ["sd1.5"])

    assert site("text_model.encoder.layers.4.self_attn.q_proj", "text_encoder") in adapter.updates


def test_the_numbers_of_cloneofsimo_count_the_middle_block_last(wild: Wild) -> None:
    widths = [320] * 16 + [640] * 16 + [1280] * 16 + [1280] * 24 + [640] * 24 + [320] * 24 + [1280] * 8
    tensors: Tensors = {}
    for number, width in enumerate(widths):
        inputs = 768 if number % 8 in {5, 6} else width
        tensors |= lora(f"unet:{number}", width, inputs, 1, ends=(":down", ":up"))

    adapter = wild.read(tensors, ["sd1.5", "sd2.1"], {"unet": '["CrossAttention", "Attention"]'})

    assert (adapter.base.name, adapter.dialect, len(adapter.updates)) == ("sd1.5", "cloneofsimo", 128)
    last = adapter.low_rank()[site("mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0")]
    assert torch.equal(last.up, tensors["unet:127:up"])
