"""Which diffusion transformer an adapter was made for: spellings that families share, sizes, words of trainers."""

from __future__ import annotations

import pytest
import torch

from tests.lorax.in_the_wild.twins import PEFT, Tensors, kohya, lora, noise, peft
from tests.lorax.in_the_wild.wild import DITS, FLUX, HUNYUAN, WAN, Wild, base, site

WIDTH = 3072


def flat_joint(double: range, single: range, *, flux: bool, mods: bool = True, rank: int = 1) -> Tensors:
    """The modules of BFL's and of Tencent's code, which agree in all but the names of the feed-forward part."""
    first, last = ("mlp_0", "mlp_2") if flux else ("mlp_fc1", "mlp_fc2")
    found: Tensors = {}
    for number in double:
        for stream in ("img", "txt"):
            start = f"lora_unet_double_blocks_{number}_{stream}"
            found |= kohya(f"{start}_attn_qkv", 3 * WIDTH, WIDTH, rank)
            found |= kohya(f"{start}_attn_proj", WIDTH, WIDTH, rank)
            found |= kohya(f"{start}_{first}", 4 * WIDTH, WIDTH, rank) if mods else {}
            found |= kohya(f"{start}_{last}", WIDTH, 4 * WIDTH, rank) if mods else {}
    for number in single:
        found |= kohya(f"lora_unet_single_blocks_{number}_linear1", 7 * WIDTH, WIDTH, rank)
        found |= kohya(f"lora_unet_single_blocks_{number}_linear2", WIDTH, 5 * WIDTH, rank)
    return found


def only_shared(double: range, single: range) -> Tensors:
    return flat_joint(double, single, flux=True, mods=False)


def test_flux_files_in_flat_names_are_flux_and_between_dev_and_schnell_a_word_decides(wild: Wild) -> None:
    tensors = flat_joint(range(1), range(1), flux=True)

    found = wild.look(tensors, DITS)
    adapter = wild.read(tensors, DITS, {"modelspec.architecture": "flux-1-dev/lora"})

    assert found.family == "flux"
    assert found.rivals == ["flux1-dev", "flux1-schnell"]
    assert found.problem is not None
    assert found.problem[0] == "base-undecided"
    assert adapter.base.name == "flux1-dev"
    assert wild.read(tensors, DITS, labels=["Flux.1 S"]).base.name == "flux1-schnell"


def test_hunyuan_files_in_flat_names_are_hunyuan(wild: Wild) -> None:
    tensors = flat_joint(range(1), range(1), flux=False)

    adapter = wild.read(tensors, DITS, {"ss_base_model_version": "hunyuan_video"})

    assert adapter.base.name == "hunyuan-video-t2v"
    assert set(wild.look(tensors, DITS).rivals) == {"hunyuan-video-t2v", "framepack"}


def test_modules_that_flux_and_hunyuan_share_leave_the_family_undecided(wild: Wild) -> None:
    found = wild.look(only_shared(range(2), range(2)), DITS)

    assert found.family == "undecided"
    assert {"flux1-dev", "hunyuan-video-t2v"} <= set(found.rivals)
    assert found.problem is not None
    assert "flux1-dev" in found.problem[1]
    assert "hunyuan-video-t2v" in found.problem[1]


@pytest.mark.parametrize(("double", "single"), [(range(19, 20), range(1)), (range(1), range(38, 39))])
def test_a_block_that_flux_has_not_decides_for_hunyuan(double: range, single: range, wild: Wild) -> None:
    found = wild.look(only_shared(double, single), (*FLUX, *HUNYUAN))

    assert "flux1-dev" not in found.rivals
    assert {"hunyuan-video-t2v", "framepack"} == set(found.rivals)


def test_all_blocks_of_flux_and_no_more_decide_for_flux_by_completeness(wild: Wild) -> None:
    tensors = {
        name: torch.ones(tensor.shape, dtype=torch.float8_e4m3fn)
        for name, tensor in only_shared(range(19), range(38)).items()
    }

    assert wild.look(tensors, (*FLUX, *HUNYUAN)).rivals == ["flux1-dev", "flux1-schnell"]


def test_text_to_video_and_image_to_video_of_hunyuan_look_the_same_and_the_plain_one_is_named(wild: Wild) -> None:
    tensors = flat_joint(range(1), range(1), flux=False)

    adapter = wild.read(tensors, HUNYUAN, labels=["Hunyuan Video"])

    assert adapter.base.name == "hunyuan-video-t2v"
    assert any("hunyuan-video-i2v-33ch would do as well" in line for line in adapter.base.evidence)


def test_framepack_names_of_musubi_are_decided_by_its_word(wild: Wild) -> None:
    tensors = kohya("lora_unet_transformer_blocks_0_attn_to_q", WIDTH, WIDTH)
    tensors |= kohya("lora_unet_single_transformer_blocks_7_proj_mlp", 4 * WIDTH, WIDTH)

    adapter = wild.read(
        tensors, DITS, {"ss_network_module": "networks.lora_framepack", "ss_base_model_version": "framepack"}
    )

    assert (adapter.base.name, adapter.dialect) == ("framepack", "musubi")
    assert site("single_transformer_blocks.7.proj_mlp", "transformer") in adapter.updates


WANS = {
    "wan2.1-t2v-1.3b": (1536, 8960, 30, False),
    "wan2.1-i2v-14b": (5120, 13824, 40, True),
    "wan2.2-ti2v-5b": (3072, 14336, 30, False),
}


def wan(width: int, inner: int, blocks: range, *, image: bool, prefix: str = "lora_unet_blocks") -> Tensors:
    found: Tensors = {}
    for number in blocks:
        start = f"{prefix}_{number}"
        for attention in ("self_attn", "cross_attn"):
            for part in "qkvo":
                found |= kohya(f"{start}_{attention}_{part}", width, width, 1)
        for part in ("k_img", "v_img") if image else ():
            found |= kohya(f"{start}_cross_attn_{part}", width, width, 1)
        found |= kohya(f"{start}_ffn_0", inner, width, 1) | kohya(f"{start}_ffn_2", width, inner, 1)
    return found


@pytest.mark.parametrize("name", WANS)
def test_sizes_of_wan_are_told_by_width_and_by_the_attention_to_an_image(name: str, wild: Wild) -> None:
    width, inner, layers, image = WANS[name]
    tensors = wan(width, inner, range(layers - 1, layers), image=image)

    adapter = wild.read(tensors, DITS, {"ss_base_model_version": "wan", "ss_network_module": "networks.lora_wan"})

    assert (adapter.base.name, adapter.dialect) == (name, "musubi")
    assert len(adapter.updates) == len(tensors) / 3


def test_wan_14b_of_2_1_and_both_experts_of_2_2_look_the_same(wild: Wild) -> None:
    tensors = wan(5120, 13824, range(1), image=False)

    found = wild.look(tensors, WAN, {"ss_base_model_version": "wan"})

    assert {"wan2.1-t2v-14b", "wan2.2-t2v-a14b", "wan2.2-i2v-a14b"} <= set(found.rivals)
    assert found.family == "wan"
    assert found.problem is not None
    assert found.problem[0] == "base-undecided"
    adapter = wild.read(tensors, WAN, labels=["Wan Video 2.2 T2V-A14B"])
    assert adapter.base.name == "wan2.2-t2v-a14b"
    # Nothing in a file tells the expert for high noise from that for low noise; the first is meant.
    assert {site.component for site in adapter.updates} == {"transformer"}


def test_a_self_attention_file_of_wan_14b_may_be_of_image_to_video_too(wild: Wild) -> None:
    tensors = {name: tensor for name, tensor in wan(5120, 13824, range(1), image=True).items() if "self_attn" in name}

    assert "wan2.1-i2v-14b" in wild.look(tensors, WAN).rivals


def test_wan_for_another_size_is_refused_with_the_nearest(wild: Wild) -> None:
    refusal = wild.refusal(wan(5120, 13824, range(1), image=False), ["wan2.1-t2v-1.3b", "wan2.2-ti2v-5b"])

    assert refusal.reason == "base-unknown"
    assert "Nearest is wan2." in refusal.message
    assert "5120x5120" in refusal.message


def test_ai_toolkits_sd_1_5_in_a_file_of_flux_gives_way_to_the_shapes_and_is_told(wild: Wild) -> None:
    tensors = peft("transformer.transformer_blocks.0.attn.to_q", WIDTH, WIDTH)
    tensors |= peft("transformer.single_transformer_blocks.37.proj_out", WIDTH, 5 * WIDTH)
    metadata = {
        "software": '{"name": "ai-toolkit", "url": "https://github.com/ostris/ai-toolkit"}',
        "ss_base_model_version": "sd_1.5",
        "name": "my_flux",
    }

    adapter = wild.read(tensors, (*FLUX, "sd1.5"), metadata, labels=["Flux.1 D"])

    assert (adapter.base.name, adapter.dialect) == ("flux1-dev", "ai_toolkit")
    assert any("sd_1.5" in line and "overruled by the shapes" in line for line in adapter.base.evidence)


def test_sd_1_5_in_a_file_of_flux_that_nobody_signed_is_a_contradiction(wild: Wild) -> None:
    tensors = peft("transformer.transformer_blocks.0.attn.to_q", WIDTH, WIDTH)

    refusal = wild.refusal(tensors, (*FLUX, "sd1.5"), {"ss_base_model_version": "sd_1.5"})

    assert refusal.reason == "base-contradicted"
    assert "sd1.5" in refusal.message
    assert "flux1-dev" in refusal.message


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            {
                "transformer_blocks.0.attn.add_q_proj": (WIDTH, WIDTH),
                "transformer_blocks.0.img_mlp.net.0.proj": (4 * WIDTH, WIDTH),
            },
            "qwen-image",
        ),
        (
            {"transformer_blocks.23.attn.to_q": (1536, 1536), "transformer_blocks.12.attn2.to_q": (1536, 1536)},
            "sd3.5-medium",
        ),
        ({"transformer_blocks.37.attn.to_q": (2432, 2432)}, "sd3.5-large"),
        ({"layers.25.attn.to_k": (768, 2304)}, "lumina2"),
        ({"blocks.0.attn2.add_k_proj": (5120, 5120)}, "wan2.1-i2v-14b"),
    ],
)
def test_diffusers_names_of_transformers_are_told_apart(
    names: dict[str, tuple[int, int]], expected: str, wild: Wild
) -> None:
    tensors: Tensors = {}
    for path, (out, inputs) in names.items():
        tensors |= peft(f"transformer.{path}", out, inputs)

    adapter = wild.read(tensors, DITS)

    assert (adapter.base.name, adapter.dialect) == (expected, "diffusers")


def test_blocks_without_any_second_attention_leave_both_medium_sizes_of_sd3(wild: Wild) -> None:
    tensors = peft("transformer.transformer_blocks.20.attn.to_q", 1536, 1536)

    assert {"sd3-medium", "sd3.5-medium"} == set(wild.look(tensors, DITS).rivals)


def test_the_condition_of_a_control_model_is_in_its_first_layer_alone(wild: Wild) -> None:
    tensors = lora("double_blocks.0.img_attn.proj", WIDTH, WIDTH, ends=PEFT) | lora("img_in", WIDTH, 128, ends=PEFT)
    tensors["double_blocks.0.img_attn.proj.lora_B.bias"] = noise("bias", WIDTH)

    adapter = wild.read(tensors, DITS)

    assert (adapter.base.name, adapter.dialect) == ("flux1-control", "bfl_control")
    assert base("flux1-control").sites[site("x_embedder", "transformer")].in_features == 128


def test_the_first_layer_of_a_whole_control_model_decides_although_all_else_is_equal(wild: Wild) -> None:
    tensors: Tensors = {}
    for number in range(19):
        for stream in ("img", "txt"):
            for part, out, inputs in (("attn.qkv", 3, 1), ("attn.proj", 1, 1), ("mlp.0", 4, 1), ("mlp.2", 1, 4)):
                name = f"double_blocks.{number}.{stream}_{part}"
                tensors |= lora(name, out * WIDTH, inputs * WIDTH, 1, ends=PEFT, dtype=torch.bfloat16)
    tensors |= lora("img_in", WIDTH, 128, 1, ends=PEFT)
    tensors["img_in.lora_B.bias"] = noise("bias", WIDTH)

    assert len(tensors) > 300
    assert wild.look(tensors, DITS).base == "flux1-control"
    # Catalogues call a control model's adapters by the name of the plain model.
    assert wild.look(tensors, DITS, labels=["Flux.1 D"]).base == "flux1-control"
    refused = wild.look(tensors, DITS, labels=["Flux.1 S"]).problem
    assert refused is not None
    assert refused[0] == "base-contradicted"


def test_the_guidance_of_dev_is_what_schnell_has_not(wild: Wild) -> None:
    tensors = kohya("lora_unet_guidance_in_in_layer", WIDTH, 256)

    assert wild.look(tensors, FLUX).rivals == []
    assert wild.read(tensors, FLUX).base.name == "flux1-dev"


def comfyui_joint(double: range, single: range = range(0)) -> Tensors:
    """ComfyUI's own names for HunyuanVideo are those of Flux: its code was written from that of Flux."""
    found: Tensors = {}
    for number in double:
        for stream in ("img", "txt"):
            for part, out, inputs in (("attn.qkv", 3, 1), ("attn.proj", 1, 1), ("mlp.0", 4, 1), ("mlp.2", 1, 4)):
                name = f"diffusion_model.double_blocks.{number}.{stream}_{part}"
                found |= lora(name, out * WIDTH, inputs * WIDTH, 1, dtype=torch.bfloat16)
    for number in single:
        start = f"diffusion_model.single_blocks.{number}"
        found |= lora(f"{start}.linear1", 7 * WIDTH, WIDTH, 1, dtype=torch.bfloat16)
        found |= lora(f"{start}.linear2", WIDTH, 5 * WIDTH, 1, dtype=torch.bfloat16)
    return found


def test_comfyuis_names_of_hunyuan_and_flux_are_told_by_the_number_of_blocks(wild: Wild) -> None:
    hunyuan, flux = comfyui_joint(range(20)), comfyui_joint(range(19), range(38))

    assert set(wild.look(hunyuan, (*FLUX, *HUNYUAN)).rivals) == {"hunyuan-video-t2v", "framepack"}
    assert wild.look(hunyuan, (*FLUX, *HUNYUAN), labels=["Hunyuan Video"]).base == "hunyuan-video-t2v"
    assert wild.look(flux, (*FLUX, *HUNYUAN)).rivals == ["flux1-dev", "flux1-schnell"]


def test_a_part_of_either_in_comfyuis_names_is_undecided_and_one_word_decides(wild: Wild) -> None:
    tensors = comfyui_joint(range(9, 10))

    assert {"flux1-dev", "hunyuan-video-t2v"} <= set(wild.look(tensors, (*FLUX, *HUNYUAN)).rivals)
    for label, name in (("Flux.1 D", "flux1-dev"), ("Hunyuan Video", "hunyuan-video-t2v")):
        adapter = wild.read(tensors, (*FLUX, *HUNYUAN), labels=[label])
        assert (adapter.base.name, adapter.dialect) == (name, "comfyui")
        assert len(adapter.updates) == 12


def test_the_text_refiner_in_comfyuis_names_is_hunyuans(wild: Wild) -> None:
    start = "diffusion_model.txt_in.individual_token_refiner.blocks.1"
    tensors = lora(f"{start}.self_attn.qkv", 3 * WIDTH, WIDTH) | lora(f"{start}.mlp.0", 4 * WIDTH, WIDTH)
    tensors |= lora("diffusion_model.txt_in.c_embedder.in_layer", WIDTH, 4096)
    tensors |= {"diffusion_model.single_blocks.24.modulation.lin.diff_b": noise("b", 3 * WIDTH)}

    adapter = wild.read(tensors, DITS, labels=["Hunyuan Video"])

    assert adapter.base.name == "hunyuan-video-t2v"
    assert len(adapter.updates) == 5
    assert set(adapter.vectors) == {site("single_transformer_blocks.24.norm.linear.bias", "transformer")}
