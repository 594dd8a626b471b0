"""One file under CompVis' names is the base that its folder is: same sites, same weights, same fingerprint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from diffusers.loaders import single_file_utils as converters
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lorax.adapter import Site
from lorax.checkpoint import open_checkpoint
from lorax.errors import Stop
from lorax.original_names import unet_of
from lorax.weight_file import open_weight_file, write_weight_file
from tests.stand_ins.adapter_files import SMALL_UNET, small_base, write_base_folder
from tests.stand_ins.original_files import (
    PREFIX,
    compvis_file,
    expect_same,
    openclip_tensors,
    original_tensors,
    tensors_of,
    unet_names,
)
from tests.stand_ins.tiny_bases import make_base


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A pipeline of diffusers and the same as one file."""
    place = tmp_path_factory.mktemp("one-file")
    folder = make_base(place / "tiny", seed=0)
    return folder, compvis_file(folder, place / "tiny.safetensors")


def test_a_compvis_file_is_the_base_that_its_folder_is(tiny: tuple[Path, Path]) -> None:
    expect_same(*tiny)


def test_the_names_in_the_file_are_those_that_diffusers_converts(tiny: tuple[Path, Path]) -> None:
    folder, path = tiny
    config = json.loads((folder / "unet" / "config.json").read_text())

    converted = converters.convert_ldm_unet_checkpoint(tensors_of(path), config)

    expected = tensors_of(folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert converted.keys() == expected.keys()
    assert all(torch.equal(converted[name], tensor) for name, tensor in expected.items())


def test_one_changed_bit_of_the_file_changes_the_fingerprint(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    entry = open_weight_file(tiny[1]).tensors[f"{PREFIX}out.2.weight"]
    content = bytearray(tiny[1].read_bytes())
    content[entry.begin] ^= 1
    (tmp_path / "other.safetensors").write_bytes(content)

    fingerprints = {
        open_checkpoint(path, name="x").base.fingerprint for path in (*tiny, tmp_path / "other.safetensors")
    }

    assert len(fingerprints) == 2


@pytest.mark.parametrize("part", ["unet", "unet/diffusion_pytorch_model.safetensors"])
def test_a_component_alone_is_opened_with_its_own_sites(part: str, tiny: tuple[Path, Path]) -> None:
    whole = open_checkpoint(tiny[0], name="whole")

    found = open_checkpoint(tiny[0] / part, name="part")

    assert found.base.sites == {site: shape for site, shape in whole.base.sites.items() if site.component == "unet"}
    with pytest.raises(Stop, match=r"can be read but not run.*unet alone.*whole folder"):
        _ = found.folder


def test_a_component_file_without_configuration_is_known_by_its_names(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "any-name.safetensors"
    path.write_bytes((tiny[0] / "unet" / "diffusion_pytorch_model.safetensors").read_bytes())

    found, expected = open_checkpoint(path, name="file").base, open_checkpoint(tiny[0] / "unet", name="folder").base

    assert (found.fingerprint, found.family) == (expected.fingerprint, expected.family)


def test_a_folder_with_one_file_is_that_file_and_one_with_two_has_to_be_narrowed(
    tiny: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "a.safetensors").write_bytes(tiny[1].read_bytes())
    assert open_checkpoint(tmp_path, name="x").base.sites == open_checkpoint(tiny[1], name="x").base.sites

    (tmp_path / "b.safetensors").write_bytes(tiny[1].read_bytes())
    with pytest.raises(Stop, match=r"2 files of weights \(a\.safetensors, b\.safetensors\).*give one of the files"):
        open_checkpoint(tmp_path, name="x")


def clip(width: int, layers: int, *, projected: bool) -> dict[str, Tensor]:
    config = CLIPTextConfig(
        vocab_size=30, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers, num_attention_heads=2,
        max_position_embeddings=7, projection_dim=width, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    kind = CLIPTextModelWithProjection if projected else CLIPTextModel
    return {name: tensor for name, tensor in kind(config).state_dict().items() if not name.endswith("position_ids")}


def write_pipeline(folder: Path, encoders: Mapping[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """Writes a pipeline with a small U-Net and these text encoders; returns the U-Net under CompVis' names."""
    write_base_folder(folder)
    for name, state in encoders.items():
        (folder / name).mkdir(exist_ok=True)
        write_weight_file(folder / name / "model.safetensors", {key: each.contiguous() for key, each in state.items()})
    unet = tensors_of(folder / "unet" / "diffusion_pytorch_model.safetensors")
    return original_tensors(unet, unet_names(small_base()), prefix=PREFIX)


def test_the_openclip_encoder_of_stable_diffusion_2_is_taken_apart_without_its_last_layer(tmp_path: Path) -> None:
    text = clip(8, 2, projected=False)
    tensors = write_pipeline(tmp_path / "folder", {"text_encoder": text})
    tensors |= openclip_tensors(text, prefix="cond_stage_model.model.", extra_layers=1)
    tensors["cond_stage_model.model.text_projection"] = torch.randn(8, 8)
    write_weight_file(tmp_path / "file.safetensors", tensors)

    expect_same(tmp_path / "folder", tmp_path / "file.safetensors")


def test_the_two_encoders_of_sdxl_are_found_and_the_projection_is_turned(tmp_path: Path) -> None:
    first, second = clip(8, 1, projected=False), clip(12, 2, projected=True)
    tensors = write_pipeline(tmp_path / "folder", {"text_encoder": first, "text_encoder_2": second})
    for name, tensor in first.items():
        path = name.removeprefix("text_model.")
        tensors[f"conditioner.embedders.0.transformer.text_model.{path}"] = tensor
    tensors |= openclip_tensors(second, prefix="conditioner.embedders.1.model.")
    write_weight_file(tmp_path / "file.safetensors", tensors)

    expect_same(tmp_path / "folder", tmp_path / "file.safetensors")
    found = open_checkpoint(tmp_path / "file.safetensors", name="x")
    query = Site("text_encoder_2", "text_model.encoder.layers.1.self_attn.q_proj")
    assert found.base.sites[query].weight_shape == (12, 12)
    assert torch.equal(
        found.weight(Site("text_encoder_2", "text_projection")), second["text_projection.weight"].float()
    )


def test_the_small_unet_is_what_its_names_say() -> None:
    base = small_base()
    names = {module.path: module.shape for module in unet_names(base) if module.shape is not None}

    found = unet_of({f"{path}.weight": shape.weight_shape for path, shape in names.items()})

    assert list(found.modules()) == list(SMALL_UNET.modules())
