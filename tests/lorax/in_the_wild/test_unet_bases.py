"""Which conditional U-Net an adapter was made for: full, partial and one-sided files of every Stable Diffusion."""

from __future__ import annotations

import pytest
import torch

from lorax.adapter import LowRank
from tests.lorax.in_the_wild.twins import (
    Tensors,
    clip_file,
    factors,
    kohya,
    lora,
    sd1_attentions,
    sdxl_attentions,
    ssd_1b_attentions,
    unet_file,
    vega_attentions,
)
from tests.lorax.in_the_wild.wild import FLUX, SD1, UNETS, XL, Wild, base, site


def sd1() -> Tensors:
    return unet_file(sd1_attentions(), 768, conv_projection=True)


def sd2() -> Tensors:
    return unet_file(sd1_attentions(), 1024)


def sdxl(*, only: str = "", sgm: bool = True) -> Tensors:
    return unet_file(sdxl_attentions(), 2048, sgm=sgm, only=only)


def ssd_1b(*, only: str = "", sgm: bool = True) -> Tensors:
    return unet_file(ssd_1b_attentions(), 2048, sgm=sgm, only=only)


WHOLE = {
    "sd1.5": (sd1, 192),
    "sd2.1": (sd2, 192),
    "sdxl": (sdxl, 722),
    "ssd-1b": (ssd_1b, 360),
    "segmind-vega": (lambda: unet_file(vega_attentions(), 2048, sgm=True), 170),
    "bk-sdm-base": (lambda: unet_file(sd1_attentions(down=1, up=2), 768, conv_projection=True), 120),
    "bk-sdm-small": (lambda: unet_file(sd1_attentions(down=1, up=2, middle=False), 768), 108),
    "bk-sdm-tiny": (lambda: unet_file(sd1_attentions(down=1, up=2, middle=False, first_up=0), 768), 108),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_file_without_metadata_is_of_the_base_whose_every_attention_it_patches(name: str, wild: Wild) -> None:
    make, count = WHOLE[name]
    tensors = make()

    adapter = wild.read(tensors, UNETS)

    assert (adapter.base.name, adapter.dialect, adapter.algorithms) == (name, "kohya", ("lora",))
    assert len(adapter.updates) == count == len(tensors) / 3
    assert adapter.scales().keys() == {str(site) for site in adapter.updates}
    assert set(adapter.scales().values()) == {1.0}


def test_sgm_and_diffusers_names_of_sdxl_are_the_same_sites(wild: Wild) -> None:
    ours = wild.read(sdxl(sgm=True), ["sdxl"]).low_rank()
    theirs = wild.read(sdxl(sgm=False), ["sdxl"]).low_rank()

    assert ours.keys() == theirs.keys()
    for mine, other in zip(sorted(ours), sorted(theirs), strict=True):
        assert ours[mine].up.shape == theirs[other].up.shape


@pytest.mark.parametrize(
    ("sgm", "path"),
    [
        (
            "input_blocks_4_1_transformer_blocks_1_attn2_to_k",
            "down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k",
        ),
        (
            "input_blocks_8_1_transformer_blocks_9_attn2_to_k",
            "down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_k",
        ),
        ("middle_block_1_transformer_blocks_3_attn2_to_k", "mid_block.attentions.0.transformer_blocks.3.attn2.to_k"),
        (
            "output_blocks_2_1_transformer_blocks_0_attn2_to_k",
            "up_blocks.0.attentions.2.transformer_blocks.0.attn2.to_k",
        ),
        (
            "output_blocks_5_1_transformer_blocks_1_attn2_to_k",
            "up_blocks.1.attentions.2.transformer_blocks.1.attn2.to_k",
        ),
    ],
)
def test_an_sgm_name_of_sdxl_is_the_very_site_and_factors(sgm: str, path: str, wild: Wild) -> None:
    tensors = sdxl()

    update = wild.read(tensors, ["sdxl"]).low_rank()[site(path)]

    up, down = factors(tensors, f"lora_unet_{sgm}")
    assert torch.equal(update.up, up)
    assert torch.equal(update.down, down)


def test_ldm_conv_names_of_sdxl_are_the_very_sites(wild: Wild) -> None:
    named = {
        "input_blocks_1_0_in_layers_2": ("down_blocks.0.resnets.0.conv1", 320, 320, (3, 3)),
        "input_blocks_3_0_op": ("down_blocks.0.downsamplers.0.conv", 320, 320, (3, 3)),
        "input_blocks_4_0_skip_connection": ("down_blocks.1.resnets.0.conv_shortcut", 640, 320, (1, 1)),
        "input_blocks_6_0_op": ("down_blocks.1.downsamplers.0.conv", 640, 640, (3, 3)),
        "middle_block_2_out_layers_3": ("mid_block.resnets.1.conv2", 1280, 1280, (3, 3)),
        "output_blocks_2_2_conv": ("up_blocks.0.upsamplers.0.conv", 1280, 1280, (3, 3)),
        "output_blocks_5_2_conv": ("up_blocks.1.upsamplers.0.conv", 640, 640, (3, 3)),
        "output_blocks_8_0_emb_layers_1": ("up_blocks.2.resnets.2.time_emb_proj", 320, 1280, ()),
    }
    tensors: Tensors = {}
    for name, (_, out, inputs, kernel) in named.items():
        tensors |= lora(f"lora_unet_{name}", out, inputs, alpha=1, kernel=kernel)

    adapter = wild.read(tensors, ["sdxl"])

    for name, (path, _, _, kernel) in named.items():
        update = adapter.low_rank()[site(path)]
        up, down = factors(tensors, f"lora_unet_{name}")
        assert torch.equal(update.up, up)
        assert torch.equal(update.down, down)
        assert update.kernel == (kernel or None)


def test_a_part_of_ssd_1b_without_metadata_is_undecided_and_says_what_would_decide(wild: Wild) -> None:
    tensors = {name: tensor for name, tensor in ssd_1b().items() if "output_blocks" in name}

    refusal = wild.refusal(tensors, UNETS)

    assert refusal.reason == "base-undecided"
    assert "ssd-1b, sdxl" in refusal.message or "sdxl, ssd-1b" in refusal.message
    assert "label" in refusal.message
    assert "ss_new_sd_model_hash" in refusal.message


@pytest.mark.parametrize(
    ("labels", "metadata", "expected"),
    [
        (["SSD-1B"], {}, "ssd-1b"),
        (["segmind/SSD-1B"], {}, "ssd-1b"),
        (["SDXL 1.0"], {}, "sdxl"),
        (["Pony"], {}, "sdxl"),
        (["Illustrious"], {}, "sdxl"),
        (["NoobAI"], {}, "sdxl"),
        (["SDXL Lightning"], {}, "sdxl"),
        ([], {"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl"),
        ([], {"ss_base_model_version": "sdxl_"}, "sdxl"),  # OneTrainer
        ([], {"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, "sdxl"),
        ([], {"ss_sd_model_name": "ponyDiffusionV6XL_v6StartWithThisOne.safetensors"}, "sdxl"),
    ],
)
def test_one_word_decides_a_part_that_ssd_1b_and_sdxl_share(
    labels: list[str], metadata: dict[str, str], expected: str, wild: Wild
) -> None:
    tensors = ssd_1b(only="output_blocks_0_1_transformer_blocks_1")

    adapter = wild.read(tensors, UNETS, metadata, labels=labels)

    assert adapter.base.name == expected


def test_pony_v7_is_another_architecture_and_no_word_for_sdxl(wild: Wild) -> None:
    refusal = wild.refusal(ssd_1b(only="output_blocks_0_1_transformer_blocks_1"), UNETS, labels=["Pony V7"])

    assert refusal.reason == "base-contradicted"
    assert "Pony V7" in refusal.message


def test_a_whole_sdxl_file_is_never_ssd_1b_even_where_a_label_says_so(wild: Wild) -> None:
    refusal = wild.refusal(sdxl(), UNETS, labels=["SSD-1B"])

    assert refusal.reason == "base-contradicted"
    assert "SSD-1B" in refusal.message
    assert "sdxl" in refusal.message


def test_blocks_that_b_lora_patches_are_deeper_than_ssd_1b(wild: Wild) -> None:
    tensors = {
        name: tensor
        for name, tensor in sdxl(only="attn").items()
        if name.startswith(("lora_unet_output_blocks_0_1", "lora_unet_output_blocks_1_1"))
    }

    assert wild.read(tensors, UNETS).base.name == "sdxl"


def test_a_label_of_sd1_on_a_file_of_sdxl_is_a_contradiction_that_names_both(wild: Wild) -> None:
    refusal = wild.refusal(sdxl(only="middle"), UNETS, labels=["SD 1.5"])

    assert refusal.reason == "base-contradicted"
    assert "SD 1.5" in refusal.message
    assert "sdxl" in refusal.message


@pytest.mark.parametrize("context", [768, 1024])
def test_the_width_of_the_text_alone_tells_sd1_from_sd2(context: int, wild: Wild) -> None:
    tensors = unet_file(sd1_attentions(), context, only="attn2_to_k")

    assert wild.read(tensors, UNETS).base.name == {768: "sd1.5", 1024: "sd2.1"}[context]


def test_an_adapter_of_self_attention_alone_fits_sd1_and_sd2_and_says_so(wild: Wild) -> None:
    tensors = unet_file(sd1_attentions(), 768, only="attn1")

    found = wild.look(tensors, UNETS)

    assert found.problem is not None
    assert found.problem[0] == "base-undecided"
    assert found.rivals == ["sd1.5", "sd2.1"]
    assert found.family == "undecided"
    assert wild.read(tensors, UNETS, {"ss_base_model_version": "sd_v1"}).base.name == "sd1.5"
    assert wild.read(tensors, UNETS, {"modelspec.architecture": "stable-diffusion-v2-512/lora"}).base.name == "sd2.1"


def test_ss_v2_decides_between_sd1_and_sd2_where_no_better_word_is_there(wild: Wild) -> None:
    tensors = unet_file(sd1_attentions(), 768, only="attn1")

    assert wild.read(tensors, UNETS, {"ss_v2": "True"}).base.name == "sd2.1"
    assert wild.refusal(tensors, UNETS, {"ss_v2": "False"}).reason == "base-undecided"


def test_ss_v2_in_a_file_of_sd1_is_a_contradiction_that_is_reported(wild: Wild) -> None:
    refusal = wild.refusal(sd1(), UNETS, {"ss_v2": "True"})

    assert refusal.reason == "base-contradicted"
    assert "ss_v2" in refusal.message


def test_a_linear_projection_in_a_file_of_sd1_and_a_convolution_in_one_of_sd2_are_read(wild: Wild) -> None:
    linear = unet_file(sd1_attentions(), 768)
    folded = unet_file(sd1_attentions(), 1024, conv_projection=True)

    for tensors, name in ((linear, "sd1.5"), (folded, "sd2.1")):
        adapter = wild.read(tensors, UNETS)
        assert adapter.base.name == name
        path = site("down_blocks.0.attentions.0.proj_in")
        assert adapter.updates[path].dense().shape == base(name).sites[path].weight_shape


def test_a_text_encoder_of_width_768_alone_fits_many_and_says_which(wild: Wild) -> None:
    refusal = wild.refusal(clip_file("lora_te_", 12, 768), (*UNETS, *FLUX))

    assert refusal.reason == "base-undecided"
    for name in ("sd1.5", "bk-sdm-base", "flux1-dev"):
        assert name in refusal.message
    assert "sd2.1" not in refusal.message


def test_a_text_encoder_alone_is_decided_by_one_word(wild: Wild) -> None:
    tensors = clip_file("lora_te_", 12, 768)

    adapter = wild.read(tensors, UNETS, {"ss_base_model_version": "sd_v1"})

    assert adapter.base.name == "sd1.5"
    assert len(adapter.updates) == 72
    assert {site.component for site in adapter.updates} == {"text_encoder"}


def test_the_text_encoder_of_sd2_is_told_by_its_width(wild: Wild) -> None:
    adapter = wild.read(clip_file("lora_te_", 23, 1024), (*UNETS, *FLUX))

    assert adapter.base.name == "sd2.1"
    assert len(adapter.updates) == 138


def test_both_text_encoders_of_sdxl_keep_their_numbers(wild: Wild) -> None:
    tensors = clip_file("lora_te1_", 12, 768) | clip_file("lora_te2_", 32, 1280)

    refusal = wild.refusal(tensors, UNETS)
    adapter = wild.read(tensors, UNETS, {"ss_base_model_version": "sdxl_base_v1-0"})

    assert refusal.reason == "base-undecided"
    assert "sdxl" in refusal.message
    assert "ssd-1b" in refusal.message
    assert adapter.base.name == "sdxl"
    sizes = {
        name: sum(site.component == name for site in adapter.updates) for name in ("text_encoder", "text_encoder_2")
    }
    assert sizes == {"text_encoder": 72, "text_encoder_2": 192}
    path = site("text_model.encoder.layers.31.mlp.fc2", "text_encoder_2")
    up, _ = factors(tensors, "lora_te2_text_model_encoder_layers_31_mlp_fc2")
    assert torch.equal(adapter.low_rank()[path].up, up)


def test_an_inpainting_adapter_is_read_as_the_plain_model_and_the_other_is_named(wild: Wild) -> None:
    adapter = wild.read(sd1(), SD1)

    assert adapter.base.name == "sd1.5"
    assert any("sd1.5-inpainting would do as well" in line for line in adapter.base.evidence)


def test_the_refiner_is_told_by_widths_that_nothing_else_has(wild: Wild) -> None:
    tensors = kohya("lora_unet_input_blocks_4_1_transformer_blocks_3_attn2_to_k", 768, 1280)

    adapter = wild.read(tensors, XL)

    assert adapter.base.name == "sdxl-refiner"


def test_a_file_for_a_base_that_nobody_gave_names_the_nearest_and_the_first_odd_module(wild: Wild) -> None:
    refusal = wild.refusal(sdxl(only="attn2_to_k"), ["sd1.5", "sd2.1"])

    assert refusal.reason == "base-unknown"
    assert "Nearest is" in refusal.message
    assert "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k" in refusal.message
    assert "640x2048" in refusal.message


def test_a_file_of_another_width_is_refused_by_shape_with_the_nearest(wild: Wild) -> None:
    refusal = wild.refusal(unet_file(sd1_attentions(), 4096), UNETS)

    assert refusal.reason == "base-unknown"
    assert "Nearest is sd" in refusal.message


def test_a_repeated_site_in_two_namings_is_refused(wild: Wild) -> None:
    both = sdxl(only="middle_block_1_proj_in") | sdxl(only="mid_block_attentions_0_proj_in", sgm=False)

    assert wild.refusal(both, ["sdxl"]).reason == "duplicate-tensor"


def test_names_alone_never_decide_where_shapes_differ(wild: Wild) -> None:
    # up_blocks.1 and up_blocks.2 exist in SD1 and SDXL with other widths.
    tensors = kohya("lora_unet_up_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q", 1280, 1280)

    found = wild.look(tensors, UNETS)

    assert "sdxl" not in found.rivals
    assert "sd1.5" in found.rivals
    assert isinstance(
        wild.read(tensors, UNETS, labels=["SD 1.5"]).updates[
            site("up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q")
        ],
        LowRank,
    )


def test_the_input_layer_of_the_inpainting_model_decides_although_all_else_is_equal(wild: Wild) -> None:
    tensors = sd1() | lora("lora_unet_conv_in", 320, 9, 1, kernel=(3, 3))

    assert wild.read(tensors, UNETS).base.name == "sd1.5-inpainting"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("sd1.5", "sd_v1|sd_1.5|stable-diffusion-v1/lora|SD 1.4|SD 1.5 Hyper|runwayml/stable-diffusion-v1-5"),
        (
            "sd2.1",
            "sd_v2|sd_v2_v|sd_2.1|stable-diffusion-v2-768-v|SD 2.1 768|SD 2.0|stabilityai/stable-diffusion-2-1-base",
        ),
        (
            "sdxl",
            "sdxl_base_v1-0|sdxl_|sdxl_1.0|stable-diffusion-xl-v1-base/lora|Pony|NoobAI|stabilityai/sdxl-turbo",
        ),
    ],
)
def test_words_of_trainers_and_catalogues_are_no_contradiction(names: str, words: str, wild: Wild) -> None:
    make, _ = WHOLE[names]
    tensors = make()

    for word in words.split("|"):
        metadata = {"ss_base_model_version": word}
        assert wild.look(tensors, UNETS, metadata).base == names
        assert wild.look(tensors, UNETS, labels=[word]).base == names
        other = "sdxl" if names != "sdxl" else "sd1.5"
        found = wild.look(WHOLE[other][0](), UNETS, metadata)
        assert found.problem is not None
        assert found.problem[0] == "base-contradicted"
