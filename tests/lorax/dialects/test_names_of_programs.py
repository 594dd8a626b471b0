"""Names that only ComfyUI uses: HunyuanVideo built from the parts of Flux, and tables without a module."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lorax.adapter import Adapter, Site
from lorax.base_models import known_bases
from lorax.errors import Unsupported
from lorax.read import AdapterFiles, read_adapter
from lorax.weight_file import open_weight_file, write_weight_file
from lorax.write import write_adapter
from tests.stand_ins.adapter_files import random_adapter

BASES = {base.name: base for base in known_bases()}
HUNYUAN = BASES["hunyuan-video-t2v"]


def factors(path: str, out: int, inputs: int) -> dict[str, torch.Tensor]:
    return {f"{path}.lora_down.weight": torch.ones(1, inputs), f"{path}.lora_up.weight": torch.ones(out, 1)}


def read(tensors: dict[str, torch.Tensor], folder: Path, *labels: str) -> Adapter:
    path = folder / "comfyui.safetensors"
    write_weight_file(path, tensors)
    return read_adapter(AdapterFiles(path), candidates=known_bases(), labels=labels)


def hunyuan(blocks: int) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for block in range(blocks):
        tensors |= factors(f"diffusion_model.double_blocks.{block}.img_attn.qkv", 9216, 3072)
    return tensors


def test_a_file_on_all_blocks_of_hunyuan_video_is_hunyuan_video(tmp_path: Path) -> None:
    adapter = read(hunyuan(20), tmp_path, "Hunyuan Video")

    assert adapter.base.name == "hunyuan-video-t2v"
    assert len(adapter.updates) == 60
    assert Site("transformer", "transformer_blocks.19.attn.to_k") in adapter.updates


def test_without_a_word_it_might_be_for_framepack_but_not_for_flux(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="framepack, hunyuan-video-t2v share") as raised:
        read(hunyuan(20), tmp_path)

    assert "flux" not in str(raised.value)


def test_a_file_on_blocks_that_flux_has_too_is_undecided(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="hunyuan-video-t2v") as raised:
        read(hunyuan(5), tmp_path)

    assert raised.value.reason == "base-undecided"


def test_hunyuan_video_is_written_in_the_names_that_comfyui_loads(tmp_path: Path) -> None:
    adapter = random_adapter(HUNYUAN, match="single_transformer_blocks.3.", ranks=(1,))

    [path] = write_adapter(adapter, tmp_path, dialect="comfyui", base=HUNYUAN, stem="x", metadata={})

    names = {name.rpartition(".lora_")[0] for name in open_weight_file(path).tensors if ".lora_" in name}
    single = "diffusion_model.single_blocks.3"
    assert names == {f"{single}.modulation.lin", f"{single}.linear1", f"{single}.linear2"}


def test_a_table_of_modulations_is_left_out_knowingly(tmp_path: Path) -> None:
    tensors = {"diffusion_model.blocks.0.diff_m": torch.ones(1, 6, 5120)}
    for block in range(40):
        tensors |= factors(f"diffusion_model.blocks.{block}.ffn.0", 13824, 5120)
    path = tmp_path / "wan.safetensors"
    write_weight_file(path, tensors)

    adapter = read_adapter(AdapterFiles(path), candidates=[BASES["wan2.1-t2v-14b"]])

    assert [name for name, _ in adapter.unmappable] == ["diffusion_model.blocks.0.diff_m"]
