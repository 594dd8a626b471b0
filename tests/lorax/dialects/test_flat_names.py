"""What kohya, lycoris, musubi and onetrainer make of flat names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lorax.adapter import Site
from lorax.dialects import DIALECTS
from lorax.errors import Refused
from lorax.flat_names import split_flat, trainer_of
from lorax.identify import alias_table
from lorax.suffixes import KOHYA
from tests.lorax.dialects.files import randoms, read_tensors
from tests.lorax.dialects.small_bases import small_flux, small_unet

MODULE = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
SITE = Site("unet", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q")
FACTORS = randoms({f"{MODULE}.lora_down.weight": (4, 16), f"{MODULE}.lora_up.weight": (16, 4)})


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("lora_unet_a_b.lora_up.weight", "lora_unet_a_b"),
        ("lora_unet__blocks_0_q.lora_up.weight", "lora_unet_blocks_0_q"),
        ("lora_te1__encoder_0.lora_up.weight", "lora_te1_encoder_0"),
        ("lora_unet_attn_to_k_.lora_up.weight", "lora_unet_attn_to_k"),
    ],
)
def test_a_dot_too_many_before_flattening_is_read_as_what_it_means(name: str, module: str) -> None:
    assert split_flat(name, KOHYA) == (module, "up")


def test_a_dot_within_a_flat_name_belongs_to_the_role() -> None:
    assert split_flat("lora_unet_a.b.lora_up.weight", KOHYA) == ("lora_unet_a", "b.up")


@pytest.mark.parametrize(("alpha", "scale"), [(2.0, 0.5), (None, 1.0), (0.0, 1.0), (8.0, 2.0)])
def test_the_scale_is_alpha_over_the_rank_of_that_module(alpha: float | None, scale: float, tmp_path: Path) -> None:
    stored = {} if alpha is None else {f"{MODULE}.alpha": torch.tensor(alpha)}

    adapter = read_tensors(tmp_path, {**FACTORS, **stored}, small_unet())

    assert adapter.low_rank()[SITE].scale == scale


def test_a_doubled_prefix_is_refused_and_never_repaired(tmp_path: Path) -> None:
    wrong = {name.replace("lora_unet_", "lora_unet_unet_"): tensor for name, tensor in FACTORS.items()}

    with pytest.raises(Refused) as raised:
        read_tensors(tmp_path, wrong, small_unet())

    assert raised.value.reason in {"base-unknown", "unknown-tensor"}


def test_three_projections_trained_apart_have_a_third_of_their_strength(tmp_path: Path) -> None:
    # sd-scripts with split_qkv: down factors one below the other, up factors along the diagonal, alpha as it was.
    rank, width, alpha = 2, 8, 2.0
    module = "lora_unet_double_blocks_0_img_attn_qkv"
    parts = randoms({f"{kind}{part}": (rank, width) for kind in ("down", "up") for part in range(3)})
    up = torch.block_diag(*(parts[f"up{part}"].mT for part in range(3)))
    down = torch.cat([parts[f"down{part}"] for part in range(3)])

    adapter = read_tensors(
        tmp_path,
        {
            f"{module}.lora_down.weight": down,
            f"{module}.lora_up.weight": up,
            f"{module}.alpha": torch.tensor(alpha),
        },
        small_flux(),
    )

    for part, name in enumerate(("to_q", "to_k", "to_v")):
        update = adapter.low_rank()[Site("transformer", f"transformer_blocks.0.attn.{name}")]
        assert update.rank == rank
        assert update.scale == alpha / (3 * rank)
        assert torch.equal(update.down, parts[f"down{part}"])
        assert torch.equal(update.up, parts[f"up{part}"].mT)


def test_a_text_encoders_number_is_that_of_the_tool() -> None:
    t5 = "encoder_block_0_layer_0_SelfAttention_q"
    site = Site("text_encoder_2", "encoder.block.0.layer.0.SelfAttention.q")

    kohya = alias_table(small_flux(), DIALECTS["kohya"])
    onetrainer = alias_table(small_flux(), DIALECTS["onetrainer"])

    assert next(name for name, module in kohya.items() if module.parts[0].site == site) == f"lora_te3_{t5}"
    assert next(name for name, module in onetrainer.items() if module.parts[0].site == site) == f"lora_te2_{t5}"
    # Where only one text encoder has such names, any number is understood.
    assert {f"lora_te{number}_{t5}" for number in range(1, 5)} <= onetrainer.keys()


def test_parts_of_fused_weights_have_a_number_in_omi() -> None:
    omi = alias_table(small_flux(), DIALECTS["onetrainer"])

    [part] = omi["transformer.single_blocks.0.linear1.3"].parts

    assert part.site == Site("transformer", "single_transformer_blocks.0.proj_mlp")
    assert omi["transformer.single_blocks.0.linear1.3"].shape == small_flux().sites[part.site]


def test_bundled_embeddings_are_left_out_with_a_reason(tmp_path: Path) -> None:
    bundle = {"bundle_emb.word.clip_l": torch.ones(2, 12), "bundle_emb.word.string_to_param.*": torch.ones(2, 12)}

    adapter = read_tensors(tmp_path, {**FACTORS, **bundle}, small_unet())

    assert adapter.dialect == "lycoris"
    assert {name for name, _ in adapter.unmappable} == bundle.keys()
    assert all("text encoder" in reason for _, reason in adapter.unmappable)


def test_a_projection_that_the_base_does_not_have_is_left_out_with_a_reason(tmp_path: Path) -> None:
    projection = randoms(
        {"lora_te_text_projection.lora_down.weight": (2, 12), "lora_te_text_projection.lora_up.weight": (12, 2)}
    )

    adapter = read_tensors(tmp_path, {**FACTORS, **projection}, small_unet())

    assert {name for name, _ in adapter.unmappable} == projection.keys()


@pytest.mark.parametrize(
    ("metadata", "tool"),
    [
        ({}, ""),
        ({"ss_network_module": "networks.lora"}, "kohya"),
        ({"ss_network_module": "networks.lora_flux", "ss_base_model_version": "flux1"}, "kohya"),
        ({"ss_network_module": "networks.lora_flux", "ss_base_model_version": "flux_kontext"}, "musubi"),
        ({"ss_network_module": "networks.lora", "ss_base_model_version": "hunyuan_video"}, "musubi"),
        ({"ss_network_module": "networks.lora_wan"}, "musubi"),
        ({"ss_network_module": "networks.loha", "ss_base_model_version": "qwen_image"}, "musubi"),
        ({"ss_network_module": "lycoris.kohya"}, "lycoris"),
        ({"ot_branch": "master", "ss_network_module": "networks.lora"}, "onetrainer"),
        ({"ot_revision": "abc"}, "onetrainer"),
        ({"ss_base_model_version": "wan"}, ""),
    ],
)
def test_a_header_tells_who_wrote_the_file(metadata: dict[str, str], tool: str) -> None:
    assert trainer_of(metadata) == tool
