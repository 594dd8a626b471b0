"""What peft's dialect makes of names, folders and configurations."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lorax.adapter import Adapter, BaseVerdict, LowRank, Site
from lorax.errors import Refused
from lorax.peft_parameters import nested_name, parameter_respelling
from lorax.read import AdapterFiles, read_adapter
from lorax.weight_file import open_weight_file
from lorax.write import write_adapter
from tests.lorax.dialects.files import randoms, read_tensors
from tests.lorax.dialects.small_bases import known, small_flux, small_llama

PREFIX = "base_model.model."
PAIR = {"lora_A.weight": (2, 8), "lora_B.weight": (8, 2)}


def pair(module: str, down: tuple[int, int], up: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    return {f"{PREFIX}{module}.lora_A.weight": down, f"{PREFIX}{module}.lora_B.weight": up}


def test_without_its_configuration_a_strength_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"adapter_config\.json") as raised:
        read_tensors(tmp_path, randoms(pair("model.layers.0.self_attn.q_proj", (2, 16), (16, 2))), small_llama())

    assert raised.value.reason == "bad-config"


def test_fals_files_for_flux_kontext_have_no_configuration_and_a_scale_of_one(tmp_path: Path) -> None:
    adapter = read_tensors(tmp_path, randoms(pair("double_blocks.0.img_attn.qkv", (2, 8), (24, 2))), small_flux())

    assert adapter.dialect == "peft"
    assert {update.scale for update in adapter.low_rank().values()} == {1.0}
    assert len(adapter.updates) == 3


@pytest.mark.parametrize(
    ("parameters", "spelling", "meant"),
    [
        (["mlp.experts.down_proj"], "layers.0.mlp.experts", "layers.0.mlp.experts.down_proj"),
        (
            ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"],
            "layers.0.mlp.experts",
            "layers.0.mlp.experts.down_proj",
        ),
        (
            ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"],
            "layers.0.mlp.experts.base_layer",
            "layers.0.mlp.experts.gate_up_proj",
        ),
        (["mlp.experts.down_proj"], "layers.0.self_attn.q_proj", "layers.0.self_attn.q_proj"),
        ([], "layers.0.self_attn.q_proj.base_layer", "layers.0.self_attn.q_proj"),
    ],
)
def test_the_configuration_tells_which_parameter_of_a_module_is_meant(
    parameters: list[str], spelling: str, meant: str
) -> None:
    assert parameter_respelling(parameters)(spelling) == meant


def test_a_name_that_is_nested_is_found_again() -> None:
    parameters = ["gate_up_proj", "down_proj"]
    respell = parameter_respelling([f"mlp.experts.{name}" for name in parameters])

    for name in parameters:
        assert respell(nested_name("layers.0.mlp.experts", name, parameters)) == f"layers.0.mlp.experts.{name}"


def clip_adapter(component: str) -> Adapter:
    base = known("sdxl")
    site = Site(component, "text_model.encoder.layers.0.self_attn.q_proj")
    width = base.sites[site].in_features
    factors = randoms({"up": (width, 2), "down": (2, width)})
    verdict = BaseVerdict(base.name, base.family, base.version)
    update = LowRank(factors["up"], factors["down"], 0.5)
    return Adapter({site: update}, "peft", ("lora",), torch.float32, {}, (), verdict, "0" * 64)


@pytest.mark.parametrize("component", ["text_encoder", "text_encoder_2"])
def test_text_encoders_with_equal_names_are_told_apart(component: str, tmp_path: Path) -> None:
    adapter = clip_adapter(component)

    paths = write_adapter(adapter, tmp_path, dialect="peft", base=known("sdxl"), stem="bold", metadata={})
    again = read_adapter(AdapterFiles(*paths), candidates=[known("sdxl")])
    bare = randoms({name: entry.shape for name, entry in open_weight_file(paths[0]).tensors.items()})
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    unsigned = read_tensors(theirs, bare, known("sdxl"), config=json.loads(paths[1].read_text()))

    assert list(again.updates) == list(unsigned.updates) == list(adapter.updates)
    # Of the two classes in transformers, only that of the first has lost a level.
    has_level = any("text_model." in name for name in bare)
    assert has_level == (component == "text_encoder_2")


def test_each_component_has_a_folder_where_there_are_several(tmp_path: Path) -> None:
    both = clip_adapter("text_encoder")
    both = replace(both, updates={**both.updates, **clip_adapter("text_encoder_2").updates})

    paths = write_adapter(both, tmp_path, dialect="peft", base=known("sdxl"), stem="bold", metadata={})

    assert [str(path.relative_to(tmp_path)) for path in paths] == [
        "text_encoder/adapter_model.safetensors",
        "text_encoder/adapter_config.json",
        "text_encoder_2/adapter_model.safetensors",
        "text_encoder_2/adapter_config.json",
    ]


def test_the_header_keeps_the_authors_words(tmp_path: Path) -> None:
    adapter = replace(
        clip_adapter("text_encoder"),
        metadata={"modelspec.license": "cc0-1.0", "ss_network_module": "networks.lora"},
        trigger_words=("bold", "thick lines"),
    )

    [path, _] = write_adapter(adapter, tmp_path, dialect="peft", base=known("sdxl"), stem="bold", metadata={})

    metadata = open_weight_file(path).metadata
    assert metadata["modelspec.license"] == "cc0-1.0"
    assert metadata["modelspec.trigger_phrase"] == "bold, thick lines"
    assert metadata["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert "ss_network_module" not in metadata


def test_parts_saved_whole_stay_as_they_are(tmp_path: Path) -> None:
    shapes = {
        **pair("model.layers.0.self_attn.q_proj", (2, 16), (16, 2)),
        f"{PREFIX}score.weight": (3, 16),
        f"{PREFIX}score.bias": (3,),
    }
    adapter = read_tensors(tmp_path, randoms(shapes), small_llama(), config={"r": 2, "modules_to_save": ["score"]})

    paths = write_adapter(adapter, tmp_path / "out", dialect="peft", base=small_llama(), stem="bold", metadata={})

    config = json.loads(paths[1].read_text())
    file = open_weight_file(paths[0])
    assert config["modules_to_save"] == ["score"]
    assert config["target_modules"] == ["model.layers.0.self_attn.q_proj"]
    assert torch.equal(file.read(f"{PREFIX}score.bias"), randoms(shapes)[f"{PREFIX}score.bias"])


@pytest.mark.parametrize("dialect", ["lycoris"])
def test_no_other_dialect_has_a_place_for_parts_saved_whole(dialect: str, tmp_path: Path) -> None:
    shapes = {**pair("model.layers.0.self_attn.q_proj", (2, 16), (16, 2)), f"{PREFIX}score.weight": (3, 16)}
    adapter = read_tensors(tmp_path, randoms(shapes), small_llama(), config={"r": 2})

    with pytest.raises(Refused, match="score") as raised:
        write_adapter(adapter, tmp_path / "out", dialect=dialect, base=small_llama(), stem="bold", metadata={})

    assert raised.value.reason == "unwritable"


def test_a_grouped_factor_is_unfolded_by_the_configuration(tmp_path: Path) -> None:
    shapes = pair("model.layers.0.self_attn.q_proj", (2, 4), (16, 2))
    config = {"r": 2, "use_qalora": True, "qalora_group_size": 4}

    adapter = read_tensors(tmp_path, randoms(shapes), small_llama(), config=config)

    [update] = adapter.low_rank().values()
    stored = randoms(shapes)[f"{PREFIX}model.layers.0.self_attn.q_proj.lora_A.weight"]
    assert torch.equal(update.down, stored.repeat_interleave(4, dim=1) * (4 / 4))
