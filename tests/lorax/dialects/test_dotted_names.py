"""What comfyui, xlabs, bfl_control, diffusers and diffusers_old make of dotted names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lorax.adapter import Site, SiteShape
from lorax.base_model import BaseModel
from lorax.dialects import DIALECTS
from lorax.identify import alias_table
from lorax.native_names import encoder_names
from lorax.weight_file import open_weight_file
from lorax.write import write_adapter
from tests.lorax.dialects.files import randoms, read_tensors
from tests.lorax.dialects.small_bases import known, small_flux, small_unet, small_wan

BLOCK = "blocks.0"


def wan_tensors() -> dict[str, torch.Tensor]:
    """Returns a distilled Wan in small: factors, whole changes, biases and norms in one file."""
    native = f"diffusion_model.{BLOCK}"
    return randoms(
        {
            f"{native}.cross_attn.k.lora_down.weight": (2, 8),
            f"{native}.cross_attn.k.lora_up.weight": (8, 2),
            f"{native}.cross_attn.k.diff_b": (8,),
            f"{native}.norm3.diff": (8,),
            f"{native}.norm3.diff_b": (8,),
            f"{native}.cross_attn.norm_k_img.diff": (8,),
            "diffusion_model.head.head.diff": (64, 8),
            "diffusion_model.patch_embedding.diff": (8, 16, 1, 2, 2),
        }
    )


def test_factors_whole_changes_biases_and_norms_lie_in_one_file(tmp_path: Path) -> None:
    tensors = wan_tensors()

    adapter = read_tensors(tmp_path, tensors, small_wan())

    assert adapter.dialect == "comfyui"
    assert adapter.algorithms == ("full", "lora")
    assert {str(site) for site in adapter.updates} == {
        "transformer:blocks.0.attn2.to_k",
        "transformer:proj_out",
        "transformer:patch_embedding",
    }
    assert {str(site) for site in adapter.vectors} == {
        "transformer:blocks.0.attn2.to_k.bias",
        "transformer:blocks.0.norm2.weight",
        "transformer:blocks.0.norm2.bias",
        "transformer:blocks.0.attn2.norm_added_k.weight",
    }
    changed = tensors["diffusion_model.blocks.0.norm3.diff"]
    assert torch.equal(adapter.vectors[Site("transformer", "blocks.0.norm2.weight")], changed)


@pytest.mark.parametrize("dialect", ["comfyui", "lycoris"])
def test_biases_and_norms_are_written_and_read_again(dialect: str, tmp_path: Path) -> None:
    adapter = read_tensors(tmp_path, wan_tensors(), small_wan())

    [path] = write_adapter(adapter, tmp_path / "out", dialect=dialect, base=small_wan(), stem="bold", metadata={})
    file = open_weight_file(path)
    again = read_tensors(
        tmp_path, {name: file.read(name) for name in file.tensors}, small_wan(), metadata=file.metadata
    )

    assert again.dialect == dialect
    assert again.updates.keys() == adapter.updates.keys()
    assert again.vectors.keys() == adapter.vectors.keys()
    for site, vector in adapter.vectors.items():
        assert torch.equal(again.vectors[site], vector)


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("sd1.5", {"text_encoder": "clip_l"}),
        ("sd2.1", {"text_encoder": "clip_h"}),
        ("sdxl", {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}),
        ("flux1-dev", {"text_encoder": "clip_l", "text_encoder_2": "t5xxl"}),
        ("sd3-medium", {"text_encoder": "clip_l", "text_encoder_2": "clip_g", "text_encoder_3": "t5xxl"}),
    ],
)
def test_comfyui_calls_a_text_encoder_by_what_it_is(name: str, names: dict[str, str]) -> None:
    assert encoder_names(known(name)) == names


def test_an_alpha_is_written_for_comfyui_only_where_it_says_something(tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in wan_tensors().items() if "lora" in name}
    for alpha, written in ((2.0, False), (1.0, True)):
        named = {**tensors, "diffusion_model.blocks.0.cross_attn.k.alpha": torch.tensor(alpha)}
        adapter = read_tensors(tmp_path, named, small_wan())

        [path] = write_adapter(adapter, tmp_path / "out", dialect="comfyui", base=small_wan(), stem="bold", metadata={})

        assert any(name.endswith(".alpha") for name in open_weight_file(path).tensors) == written


def test_xlabs_trains_only_the_attention_of_a_single_block() -> None:
    module = alias_table(small_flux(), DIALECTS["xlabs"])["single_blocks.0.processor.qkv_lora"]

    assert [part.site.path.rpartition(".")[2] for part in module.parts] == ["to_q", "to_k", "to_v"]
    assert module.shape == SiteShape(24, 8)


def test_xlabs_counts_the_image_stream_first() -> None:
    aliases = alias_table(small_flux(), DIALECTS["xlabs"])

    image = aliases["double_blocks.0.processor.proj_lora1"].parts[0].site.path
    text = aliases["double_blocks.0.processor.proj_lora2"].parts[0].site.path

    assert image == "transformer_blocks.0.attn.to_out.0"
    assert text == "transformer_blocks.0.attn.to_add_out"


def test_a_control_adapter_carries_its_norms_apart_and_its_biases_along(tmp_path: Path) -> None:
    tensors = randoms(
        {
            "double_blocks.0.img_attn.proj.lora_A.weight": (2, 8),
            "double_blocks.0.img_attn.proj.lora_B.weight": (8, 2),
            "double_blocks.0.img_attn.proj.lora_B.bias": (8,),
            "double_blocks.0.img_attn.norm.query_norm.scale": (4,),
        }
    )

    adapter = read_tensors(tmp_path, tensors, small_flux())

    assert adapter.dialect == "bfl_control"
    assert list(adapter.saved) == ["double_blocks.0.img_attn.norm.query_norm.scale"]
    [(site, bias)] = adapter.vectors.items()
    assert site == Site("transformer", "transformer_blocks.0.attn.to_out.0.bias")
    assert torch.equal(bias, tensors["double_blocks.0.img_attn.proj.lora_B.bias"])


FACTORS = {"lora_A.weight": (4, 16), "lora_B.weight": (16, 4)}
QUERY = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


def unet_scale(folder: Path, base: BaseModel, **metadata: str) -> float:
    tensors = randoms({f"unet.{QUERY}.{part}": shape for part, shape in FACTORS.items()})
    return read_tensors(folder, tensors, base, metadata=metadata).low_rank()[Site("unet", QUERY)].scale


def test_diffusers_scale_is_one_or_what_the_header_says_for_the_component(tmp_path: Path) -> None:
    fields = {"unet.lora_alpha": 8, "text_encoder.lora_alpha": 2, "unet.alpha_pattern": {"to_k": 1}}

    assert unet_scale(tmp_path, small_unet()) == 1.0
    assert unet_scale(tmp_path, small_unet(), lora_adapter_metadata=json.dumps(fields)) == 2.0
    assert unet_scale(tmp_path, small_unet(), lora_adapter_metadata='{"text_encoder.lora_alpha": 2}') == 1.0


def test_an_alpha_beside_the_factors_counts_in_files_for_transformers(tmp_path: Path) -> None:
    name = "transformer.transformer_blocks.0.attn.to_q"
    tensors = randoms({f"{name}.lora_A.weight": (4, 8), f"{name}.lora_B.weight": (8, 4)})

    adapter = read_tensors(tmp_path, {**tensors, f"{name}.alpha": torch.tensor(2.0)}, small_flux())

    assert adapter.dialect == "diffusers"
    [update] = adapter.low_rank().values()
    assert update.scale == 0.5


def test_the_parts_of_an_old_file_may_have_names_of_two_times(tmp_path: Path) -> None:
    tensors = randoms(
        {
            "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.down.weight": (2, 16),
            "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.up.weight": (16, 2),
            "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.down.weight": (2, 12),
            "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.up.weight": (12, 2),
        }
    )

    adapter = read_tensors(tmp_path, tensors, small_unet())

    assert adapter.dialect == "diffusers_old"
    assert {str(site) for site in adapter.updates} == {
        "unet:mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0",
        "text_encoder:text_model.encoder.layers.0.self_attn.q_proj",
    }
