from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lorax.weight_file import open_weight_file
from lorax.write import write_adapter
from tests.lorax.dialects.small_bases import known, small_unet
from tests.stand_ins.adapter_files import random_adapter

SOURCE = {
    "ss_network_module": "lycoris.kohya",
    "ss_network_args": '{"algo": "lokr"}',
    "ss_base_model_version": "sd_v1",
    "ss_v2": "True",
    "ss_new_sd_model_hash": "1" * 64,
    "ss_output_name": "old name",
    "modelspec.architecture": "stable-diffusion-v1/lora",
    "modelspec.author": "somebody",
    "modelspec.license": "cc0-1.0",
    "modelspec.prediction_type": "epsilon",
}


def header(dialect: str, folder: Path, *, metadata: dict[str, str]) -> dict[str, str]:
    base = replace(small_unet(), file_hashes=("2" * 64,), version="sd1.5")
    adapter = replace(random_adapter(small_unet(), match="attn1"), metadata=metadata, trigger_words=("bold",))
    return dict(open_weight_file(write_adapter(
        adapter, folder, dialect=dialect, base=base, stem="new", metadata={}
    )[0]).metadata)  # fmt: skip


@pytest.mark.parametrize("dialect", ["kohya", "lycoris", "diffusers", "diffusers_old", "comfyui", "onetrainer", "peft"])
def test_the_author_is_carried_and_the_base_is_the_new_one(dialect: str, tmp_path: Path) -> None:
    found = header(dialect, tmp_path, metadata=SOURCE)

    assert found["modelspec.author"] == "somebody"
    assert found["modelspec.license"] == "cc0-1.0"
    assert found["modelspec.prediction_type"] == "epsilon"
    assert found["modelspec.trigger_phrase"] == "bold"
    assert found["modelspec.title"] == "new"
    assert found["modelspec.sai_model_spec"] == "1.0.0"
    assert found["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert "1" * 64 not in found.values()


def test_sd_scripts_entries_tell_the_writer_the_base_and_the_bytes(tmp_path: Path) -> None:
    found = header("kohya", tmp_path, metadata=SOURCE)

    assert found["ss_network_module"] == "networks.lora"
    assert found["ss_network_args"] == "None"
    assert found["ss_base_model_version"] == "sd_v1"
    assert found["ss_new_sd_model_hash"] == "2" * 64
    assert found["ss_sd_model_name"] == "small-unet"
    assert found["sshs_model_hash"] == open_weight_file(tmp_path / "new.safetensors").weights_sha256()
    assert "ss_v2" not in found
    assert (found["ss_network_dim"], found["ss_network_alpha"]) == ("Dynamic", "Dynamic")


def test_one_rank_and_one_scale_are_told(tmp_path: Path) -> None:
    adapter = random_adapter(small_unet(), match="attn1", ranks=(4,), scales=(0.5,))

    [path] = write_adapter(adapter, tmp_path, dialect="kohya", base=small_unet(), stem="new", metadata={})

    found = open_weight_file(path).metadata
    assert (found["ss_network_dim"], found["ss_network_alpha"]) == ("4", "2")


def test_a_base_of_the_second_generation_is_told_as_programs_ask_for_it(tmp_path: Path) -> None:
    base = known("sd2.1")
    adapter = random_adapter(base, match="mid_block.attentions.0.transformer_blocks.0.attn1")

    [path] = write_adapter(adapter, tmp_path, dialect="kohya", base=base, stem="new", metadata={})

    assert open_weight_file(path).metadata["ss_v2"] == "True"


@pytest.mark.parametrize(
    ("name", "implementation"),
    [("sd1.5", "diffusers"), ("sdxl", "https://github.com/Stability-AI/generative-models"), ("flux1-dev", None)],
)
def test_the_code_whose_names_a_file_has_is_told(name: str, implementation: str | None, tmp_path: Path) -> None:
    base = known(name)
    adapter = random_adapter(base, match="text_model.encoder.layers.0.mlp.fc1")

    [path] = write_adapter(adapter, tmp_path, dialect="kohya", base=base, stem="new", metadata={})

    assert open_weight_file(path).metadata.get("modelspec.implementation") == implementation
