from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from lorax.adapter import LowRank
from lorax.base_models import known_bases
from lorax.errors import Refused, Stop
from lorax.read import AdapterFiles, read_adapter
from lorax.weight_file import open_weight_file, sha256_file
from lorax.write import write_adapter
from tests.stand_ins.adapter_files import random_adapter, small_base

BASE = small_base("small-v2", labels=["Small v2", "examples/small-v2"], file_hashes=["2" * 64])
CARRIED = {
    "ss_base_model_version": "small_v1",
    "ss_sd_model_name": "small-v1.safetensors",
    "ss_new_sd_model_hash": "1" * 64,
    "ss_network_dim": "8",
    "modelspec.title": "Bold digits",
    "modelspec.author": "digit-painter",
    "modelspec.architecture": "small-v1/lora",
}


def header_of(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as official:
        return dict(official.metadata())


def test_a_kohya_file_names_the_new_base_and_keeps_the_rest(tmp_path: Path) -> None:
    adapter = replace(random_adapter(BASE, ranks=(4,), scales=(0.5,)), metadata=CARRIED)

    (path,) = write_adapter(
        adapter, tmp_path, dialect="kohya", base=BASE, stem="bold", metadata={"lorax_method": "copy"}
    )

    header = header_of(path)
    assert path == tmp_path / "bold.safetensors"
    assert header["ss_base_model_version"] == header["ss_sd_model_name"] == "small-v2"
    assert header["ss_new_sd_model_hash"] == "2" * 64
    assert header["modelspec.architecture"] == "small-v2/lora"
    assert header["modelspec.title"] == "Bold digits"
    assert header["lorax_method"] == "copy"
    assert (header["ss_network_dim"], header["ss_network_alpha"]) == ("4", "2")
    assert header["sshs_model_hash"] == open_weight_file(path).weights_sha256()
    assert "small-v1" not in str(header)


def test_ranks_that_differ_are_called_dynamic(tmp_path: Path) -> None:
    (path,) = write_adapter(random_adapter(BASE), tmp_path, dialect="kohya", base=BASE, stem="bold", metadata={})

    header = header_of(path)
    assert (header["ss_network_dim"], header["ss_network_alpha"]) == ("Dynamic", "Dynamic")


def test_alpha_is_a_number_without_dimensions_in_the_type_of_the_file(tmp_path: Path) -> None:
    adapter = random_adapter(BASE, dtype=torch.bfloat16)

    (path,) = write_adapter(adapter, tmp_path, dialect="kohya", base=BASE, stem="bold", metadata={})

    file = open_weight_file(path)
    for name, entry in file.tensors.items():
        assert entry.dtype == "BF16"
        assert (entry.shape == ()) == name.endswith(".alpha")


def test_convolutions_are_written_with_four_dimensions(tmp_path: Path) -> None:
    (path,) = write_adapter(random_adapter(BASE), tmp_path, dialect="kohya", base=BASE, stem="bold", metadata={})

    tensors = open_weight_file(path).tensors
    conv = "lora_unet_mid_block_resnets_0_conv1"
    assert tensors[f"{conv}.lora_down.weight"].shape[1:] == (16, 3, 3)
    assert tensors[f"{conv}.lora_up.weight"].shape[2:] == (1, 1)


def test_a_known_base_is_called_by_other_programs_words(tmp_path: Path) -> None:
    base = next(base for base in known_bases() if base.name == "sd1.5")
    adapter = random_adapter(base, match="text_encoder", ranks=(1,))

    (path,) = write_adapter(adapter, tmp_path, dialect="kohya", base=base, stem="bold", metadata={})

    header = header_of(path)
    assert header["ss_base_model_version"] == "sd_v1"
    assert header["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert read_adapter(AdapterFiles(path), candidates=[base, BASE]).base.name == "sd1.5"


def test_a_diffusers_file_holds_the_configuration_of_each_component(tmp_path: Path) -> None:
    adapter = replace(random_adapter(BASE, ranks=(4, 4, 2), scales=(0.5,)), metadata=CARRIED)

    (path,) = write_adapter(adapter, tmp_path, dialect="diffusers", base=BASE, stem="bold", metadata={})

    header = header_of(path)
    config = json.loads(header["lora_adapter_metadata"])
    assert path.name == "pytorch_lora_weights.safetensors"
    assert {key.partition(".")[0] for key in config} == {"unet", "text_encoder"}
    assert (config["unet.r"], config["unet.lora_alpha"]) == (4, 2)
    assert set(config["unet.rank_pattern"].values()) == {2}
    assert set(config["unet.alpha_pattern"].values()) == {1}
    assert "ss_network_dim" not in header
    assert header["modelspec.author"] == "digit-painter"


def test_a_peft_folder_holds_weights_and_configuration(tmp_path: Path) -> None:
    adapter = random_adapter(BASE, match="unet", ranks=(4,), scales=(2.0,))

    paths = write_adapter(adapter, tmp_path / "new", dialect="peft", base=BASE, stem="bold", metadata={})

    config = json.loads((tmp_path / "new/adapter_config.json").read_text())
    assert [path.name for path in paths] == ["adapter_model.safetensors", "adapter_config.json"]
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (4, 8, {})
    assert config["base_model_name_or_path"] == "examples/small-v2"
    assert len(config["target_modules"]) == len(adapter.updates)


def test_a_peft_folder_of_two_components_has_a_folder_for_each(tmp_path: Path) -> None:
    paths = write_adapter(random_adapter(BASE), tmp_path, dialect="peft", base=BASE, stem="bold", metadata={})

    assert [str(path.relative_to(tmp_path)) for path in paths] == [
        "text_encoder/adapter_model.safetensors",
        "text_encoder/adapter_config.json",
        "unet/adapter_model.safetensors",
        "unet/adapter_config.json",
    ]


@pytest.mark.parametrize("dialect", ["kohya", "diffusers", "peft"])
def test_the_same_adapter_gives_the_same_bytes(dialect: str, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    adapter = random_adapter(BASE, match="unet")
    backwards = replace(adapter, updates=dict(reversed(adapter.updates.items())))

    first, second = (
        write_adapter(made, folder, dialect=dialect, base=BASE, stem="bold", metadata={"b": "1", "a": "2"})
        for made, folder in zip((adapter, backwards), folders, strict=True)
    )

    assert [sha256_file(path) for path in first] == [sha256_file(path) for path in second]


def test_what_half_precision_cannot_hold_is_refused(tmp_path: Path) -> None:
    adapter = random_adapter(BASE, match="mid_block", dtype=torch.float16)
    site, update = next(iter(adapter.updates.items()))
    rows = torch.logspace(0, 12, update.up.shape[0])[:, None]
    spread = replace(adapter, updates={site: LowRank(update.up * rows, update.down * 1e12, 1.0, update.kernel)})

    with pytest.raises(Refused, match="float32") as raised:
        write_adapter(spread, tmp_path / "x", dialect="kohya", base=BASE, stem="bold", metadata={})

    assert raised.value.reason == "non-finite"
    assert not (tmp_path / "x").exists()


def test_a_dialect_that_does_not_exist_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(Stop, match=r"diffusers, .*kohya, .*peft"):
        write_adapter(random_adapter(BASE), tmp_path, dialect="konya", base=BASE, stem="bold", metadata={})


def test_an_adapter_without_updates_is_not_written(tmp_path: Path) -> None:
    empty = replace(random_adapter(BASE), updates={})

    for dialect in ("kohya", "diffusers", "peft"):
        with pytest.raises(Refused) as raised:
            write_adapter(empty, tmp_path, dialect=dialect, base=BASE, stem="bold", metadata={})
        assert raised.value.reason == "all-zero"
    assert list(tmp_path.iterdir()) == []
