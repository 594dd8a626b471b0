"""Distilled models, other trainers and newer families: what the first lines of their files look like."""

from __future__ import annotations

import json
import math

import pytest
import torch

from tests.lorax.in_the_wild.twins import PEFT, Tensors, by_hand, factors, kohya, lora, noise, peft, probe
from tests.lorax.in_the_wild.wild import DITS, FLUX, UNETS, WAN, Wild, base, effect, site

W = 3072
DEV = ["Flux.1 D"]
Q = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"


def whole_unet(name: str) -> Tensors:
    """What LCM-LoRA patches: every linear layer and every convolution, in diffusers' names."""
    found: Tensors = {}
    for place, shape in base(name).sites.items():
        if place.component == "unet":
            module = f"lora_unet_{place.path.replace('.', '_')}"
            kernel = shape.kernel or ()
            found[f"{module}.lora_down.weight"] = torch.ones(1, shape.in_features, *kernel, dtype=torch.float8_e5m2)
            found[f"{module}.lora_up.weight"] = torch.ones(
                shape.out_features, 1, *(1,) * len(kernel), dtype=torch.float8_e5m2
            )
            found[f"{module}.alpha"] = torch.tensor(1.0)
    return found


@pytest.mark.parametrize(("name", "count"), [("sd1.5", 282), ("sdxl", 794), ("ssd-1b", 429)])
def test_a_distillation_that_patches_everything_is_told_by_everything(name: str, count: int, wild: Wild) -> None:
    tensors = whole_unet(name)

    found = wild.look(tensors, UNETS)

    assert len(tensors) == 3 * count
    assert (found.base, found.problem, found.sites) == (name, None, count)


# -- the header of diffusers ------------------------------------------------------------------------------------------
def described(**fields: object) -> dict[str, str]:
    return {
        "format": "pt",
        "lora_adapter_metadata": json.dumps({f"unet.{key}": value for key, value in fields.items()}),
    }


@pytest.mark.parametrize(
    ("fields", "scale"),
    [
        ({"r": 4, "lora_alpha": 8}, 2.0),
        ({"r": 4, "lora_alpha": 8, "use_rslora": True}, 4.0),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {Q: 2}}, 0.5),
        ({"r": 16, "lora_alpha": 8}, 2.0),
        (
            {
                "r": 4,
                "lora_alpha": 8,
                "target_modules": ["to_q"],
                "bias": "none",
                "lora_bias": False,
                "use_dora": False,
            },
            2.0,
        ),
    ],
)
def test_the_header_of_diffusers_holds_the_strength(fields: dict[str, object], scale: float, wild: Wild) -> None:
    tensors = peft(f"unet.{Q}", 640, 640, 4) | peft(
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj", 768, 768
    )

    adapter = wild.read(tensors, ["sd1.5"], described(**fields))

    assert adapter.scales() == {
        f"unet:{Q}": scale,
        "text_encoder:text_model.encoder.layers.0.self_attn.q_proj": 1.0,
    }


def test_the_header_of_diffusers_may_name_a_start_that_changes_the_base(wild: Wild) -> None:
    refusal = wild.refusal(
        peft(f"unet.{Q}", 640, 640), ["sd1.5"], described(r=2, lora_alpha=2, init_lora_weights="pissa")
    )

    assert refusal.reason == "unsupported-algorithm"
    assert "pissa" in refusal.message


def test_an_alpha_tensor_goes_before_the_header(wild: Wild) -> None:
    module = f"unet.{Q}"
    tensors = peft(module, 640, 640, 4) | {f"{module}.alpha": torch.tensor(1.0)}

    assert set(wild.read(tensors, ["sd1.5"], described(r=4, lora_alpha=8)).scales().values()) == {0.25}


# -- families ---------------------------------------------------------------------------------------------------------
def test_both_experts_of_wan_in_one_file_of_diffusers(wild: Wild) -> None:
    tensors = peft("transformer.blocks.3.attn1.to_q", 5120, 5120) | peft(
        "transformer_2.blocks.3.attn1.to_q", 5120, 5120
    )

    adapter = wild.read(tensors, WAN, labels=["Wan Video 2.2 I2V-A14B"])

    assert adapter.base.name == "wan2.2-i2v-a14b"
    assert {each.component for each in adapter.updates} == {"transformer", "transformer_2"}


def test_fused_modules_of_stable_diffusion_3_and_the_halves_of_its_last_context_block(wild: Wild) -> None:
    start = "lora_unet_joint_blocks"
    qkv, last = f"{start}_4_context_block_attn_qkv", f"{start}_37_context_block_adaLN_modulation_1"
    tensors = kohya(qkv, 3 * 2432, 2432, 2, alpha=2) | kohya(last, 2 * 2432, 2432, 2, alpha=2)
    tensors |= kohya(f"{start}_4_x_block_mlp_fc1", 4 * 2432, 2432)
    vector = probe(2432)

    adapter = wild.read(tensors, DITS, {"ss_network_module": "networks.lora_sd3"})

    assert adapter.base.name == "sd3.5-large"
    expected = by_hand(tensors, qkv, vector, scale=1.0)
    for index, part in enumerate(("add_q_proj", "add_k_proj", "add_v_proj")):
        found = effect(adapter.updates[site(f"transformer_blocks.4.attn.{part}", "transformer")], vector)
        torch.testing.assert_close(found, expected[index * 2432 : (index + 1) * 2432], rtol=1e-4, atol=1e-4)
    shift, scale = by_hand(tensors, last, vector, scale=1.0).chunk(2)
    found = effect(adapter.updates[site("transformer_blocks.37.norm1_context.linear", "transformer")], vector)
    torch.testing.assert_close(found, torch.cat([scale, shift]), rtol=1e-4, atol=1e-4)
    assert site("transformer_blocks.4.ff.net.0.proj", "transformer") in adapter.updates


def test_fused_queries_of_lumina_are_wider_than_its_keys(wild: Wild) -> None:
    module = "lora_unet_layers_7_attention_qkv"
    tensors = kohya(module, 2304 + 768 + 768, 2304, 2, alpha=2)
    vector = probe(2304)

    adapter = wild.read(tensors, DITS, {"ss_network_module": "networks.lora_lumina"})

    assert adapter.base.name == "lumina2"
    expected = by_hand(tensors, module, vector, scale=1.0)
    begin = 0
    for part, rows in (("to_q", 2304), ("to_k", 768), ("to_v", 768)):
        found = effect(adapter.updates[site(f"layers.7.attn.{part}", "transformer")], vector)
        torch.testing.assert_close(found, expected[begin : begin + rows], rtol=1e-4, atol=1e-4)
        begin += rows


@pytest.mark.parametrize("width", [2048, 4096])
def test_sizes_of_ltx_are_told_by_width(width: int, wild: Wild) -> None:
    tensors = peft("diffusion_model.transformer_blocks.27.attn1.to_q", width, width)
    tensors |= peft("diffusion_model.patchify_proj", width, 128)

    adapter = wild.read(tensors, ["ltx-video-2b", "ltx-video-13b", "flux1-dev"])

    assert adapter.base.name == {2048: "ltx-video-2b", 4096: "ltx-video-13b"}[width]
    assert site("proj_in", "transformer") in adapter.updates


# -- OneTrainer's newer forms -----------------------------------------------------------------------------------------
OT = {"ot_branch": "master", "ot_revision": "0123abc"}


def test_the_parts_of_fused_weights_by_number_in_omis_form(wild: Wild) -> None:
    start = "transformer.single_blocks.5.linear1"
    rows = (W, W, W, 4 * W)
    tensors: Tensors = {}
    for number, count in enumerate(rows):
        tensors |= kohya(f"{start}.{number}", count, W)
    tensors |= kohya("t5.encoder.block.3.layer.0.SelfAttention.q", 4096, 4096)
    tensors |= kohya("clip_l.text_model.encoder.layers.0.mlp.fc1", 3072, 768)

    adapter = wild.read(tensors, ["flux1-dev"], {"ot_branch": "omi_format"})

    for number, part in enumerate(("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")):
        up, _ = factors(tensors, f"{start}.{number}")
        assert torch.equal(adapter.low_rank()[site(f"single_transformer_blocks.5.{part}", "transformer")].up, up)
    assert site("encoder.block.3.layer.0.SelfAttention.q", "text_encoder_2") in adapter.updates
    assert site("text_model.encoder.layers.0.mlp.fc1", "text_encoder") in adapter.updates


@pytest.mark.parametrize(
    ("module", "with_alpha"),
    [
        ("transformer.transformer_blocks.3.ff.net.2", False),
        ("double_blocks.3.img_mlp.2", True),
        ("diffusion_model.double_blocks.3.img_mlp.2", True),
        ("lora_unet_double_blocks_3_img_mlp_2", True),
        ("lora_transformer_transformer_blocks_3_ff_net_2", True),
    ],
)
def test_five_forms_of_onetrainer_are_one_site(module: str, wild: Wild, *, with_alpha: bool) -> None:
    ends = (".lora_down.weight", ".lora_up.weight") if module.startswith("lora_") else PEFT
    tensors = lora(module, W, 4 * W, 4, alpha=1.0 if with_alpha else None, ends=ends)

    adapter = wild.read(tensors, ["flux1-dev"], OT)

    assert adapter.dialect == "onetrainer"
    assert adapter.scales() == {"transformer:transformer_blocks.3.ff.net.2": 0.25 if with_alpha else 1.0}


# -- others -----------------------------------------------------------------------------------------------------------
def test_simpletuners_lycoris_names_have_no_component(wild: Wild) -> None:
    module = "lycoris_transformer_blocks_3_attn_to_q"
    tensors = {
        f"{module}.lokr_w1": noise("a", 4, 4),
        f"{module}.lokr_w2": noise("b", 768, 768),
        f"{module}.alpha": torch.tensor(1.0),
    }

    adapter = wild.read(tensors, FLUX, labels=DEV)

    assert adapter.dialect == "lycoris"
    assert set(adapter.updates) == {site("transformer_blocks.3.attn.to_q", "transformer")}


def test_black_forest_labs_names_behind_pefts_prefix_need_no_configuration_as_fal_writes_none(wild: Wild) -> None:
    module = "base_model.model.double_blocks.3.img_attn.proj"
    tensors = peft(module, W, W, 4)

    adapter = wild.read(tensors, FLUX, labels=DEV)

    assert adapter.scales() == {"transformer:transformer_blocks.3.attn.to_out.0": 1.0}


def test_a_slider_may_have_a_strength_below_zero(wild: Wild) -> None:
    module = f"lora_unet_{Q.replace('.', '_')}"
    tensors = kohya(module, 640, 640, 4, alpha=-2.0)

    assert set(wild.read(tensors, ["sd1.5"]).scales().values()) == {-0.5}


def test_a_resized_file_keeps_the_alpha_of_each_module_whatever_its_header_says(wild: Wild) -> None:
    module = f"lora_unet_{Q.replace('.', '_')}"
    tensors = kohya(module, 640, 640, 3, alpha=1.5) | kohya(module.replace("to_q", "to_v"), 640, 640, 11, alpha=5.5)

    adapter = wild.read(tensors, ["sd1.5"], {"ss_network_dim": "128", "ss_network_alpha": "64"})

    assert set(adapter.scales().values()) == {0.5}
    assert adapter.ranks() == (3, 11)


def test_a_motion_lora_patches_modules_that_stable_diffusion_has_not(wild: Wild) -> None:
    block = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0"
    start = f"{block}.attention_blocks.0.processor.to_q_lora"
    tensors = {f"{start}.down.weight": noise("d", 4, 320), f"{start}.up.weight": noise("u", 320, 4)}

    refusal = wild.refusal(tensors, UNETS)

    assert refusal.reason == "base-unknown"
    assert "motion_modules" in refusal.message


def test_an_adapter_of_kolors_or_chroma_that_says_so_is_not_taken_for_its_lookalike(wild: Wild) -> None:
    refusal = wild.refusal(kohya("lora_unet_double_blocks_0_img_mlp_0", 4 * W, W), ["flux1-dev"], labels=["Chroma"])

    assert refusal.reason == "base-contradicted"
    assert "Chroma" in refusal.message


def test_rank_stabilised_strength_uses_the_rank_of_the_tensors(wild: Wild) -> None:
    tensors = peft(f"unet.{Q}", 640, 640, 16)

    found = wild.read(tensors, ["sd1.5"], described(r=4, lora_alpha=8, use_rslora=True)).scales()

    assert found == {f"unet:{Q}": 8 / math.sqrt(16)}


def test_the_modulation_tables_of_distilled_wan_are_left_out_with_a_reason_as_other_programs_do(wild: Wild) -> None:
    tensors = lora("diffusion_model.blocks.3.self_attn.q", 1536, 1536) | {
        "diffusion_model.blocks.3.diff_m": noise("m", 1, 6, 1536)
    }

    adapter = wild.read(tensors, WAN)

    assert [name for name, _ in adapter.unmappable] == ["diffusion_model.blocks.3.diff_m"]
    assert "modulations" in adapter.unmappable[0][1]


@pytest.mark.parametrize("lost", ["lokr_w1_b", "lokr_w2_a", "hada_w2_b"])
def test_half_a_factor_of_lycoris_is_named(lost: str, wild: Wild) -> None:
    module = f"lora_unet_{Q.replace('.', '_')}"
    if lost.startswith("lokr"):
        shapes = {"lokr_w1_a": (16, 2), "lokr_w1_b": (2, 16), "lokr_w2_a": (40, 2), "lokr_w2_b": (2, 40)}
    else:
        shapes = {"hada_w1_a": (640, 2), "hada_w1_b": (2, 640), "hada_w2_a": (640, 2), "hada_w2_b": (2, 640)}
    tensors = {f"{module}.{role}": noise(role, *shape) for role, shape in shapes.items() if role != lost}

    refusal = wild.refusal(tensors, ["sd1.5"])

    assert refusal.reason == "incomplete-pair"
    assert lost in refusal.message
