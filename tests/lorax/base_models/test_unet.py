from __future__ import annotations

import json
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import pytest

from lorax.base_models.bk_sdm import BASE_UNET
from lorax.base_models.segmind_vega import VEGA_UNET
from lorax.base_models.ssd_1b import SSD_1B_UNET
from lorax.base_models.stable_diffusion import SD15_UNET
from lorax.base_models.stable_diffusion_2 import SD21_UNET
from lorax.base_models.stable_diffusion_xl import REFINER_UNET, SDXL_UNET
from lorax.inventories.unet import UNet
from lorax.inventory import take_inventory
from tests.lorax.base_models.unet_configs import blocks, official_shapes

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "unet_inventories.json").read_text())
TINY: dict[str, Any] = {
    "channels": 3, "widths": (8, 16), "depths": (1, 2), "middle_depth": 2, "layers": 1, "context": 12,
}  # fmt: skip
TINY_CONFIG: dict[str, Any] = {
    "in_channels": 3, "out_channels": 3, "block_out_channels": [8, 16], "layers_per_block": 1,
    "transformer_layers_per_block": [1, 2], "cross_attention_dim": 12, "attention_head_dim": 4, "norm_num_groups": 4,
    **blocks("AA"),
}  # fmt: skip


def leaves(tree: dict[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for name, inner in tree.items():
        if isinstance(inner, dict):
            yield from leaves(inner, f"{path}{name}.")
        else:
            yield f"{path}{name}", inner


@pytest.mark.parametrize(
    ("name", "unet", "modules"),
    [("sd15", SD15_UNET, 282), ("sd21", SD21_UNET, 282), ("sdxl", SDXL_UNET, 794), ("ssd1b", SSD_1B_UNET, 429)],
)
def test_the_modules_are_those_recorded_from_the_true_models(name: str, unet: UNet, modules: int) -> None:
    own = {path: str(shape) for path, shape in unet.modules()}

    assert len(own) == modules
    assert own == dict(leaves(GOLDEN[name]))


@pytest.mark.parametrize(
    ("unet", "published"),
    [
        (SD15_UNET, 859_520_964),
        (SD21_UNET, 865_910_724),
        (SDXL_UNET, 2_567_463_684),
        (BASE_UNET, 579_384_964),
    ],
    ids=["sd1.5", "sd2.1", "sdxl", "bk-sdm-base"],
)
def test_the_numbers_of_parameters_are_the_published_ones(unet: UNet, published: int) -> None:
    assert sum(prod(parameter.shape) for parameter in unet.parameters()) == published


@pytest.mark.parametrize(
    ("unet", "millions"),
    [(SSD_1B_UNET, 1331), (VEGA_UNET, 745), (REFINER_UNET, 2260)],
    ids=["ssd-1b", "vega", "refiner"],
)
def test_sizes_known_in_millions_are_met(unet: UNet, millions: int) -> None:
    assert round(sum(prod(parameter.shape) for parameter in unet.parameters()) / 1e6) == millions


@pytest.mark.parametrize("modules", [192, 722, 360], ids=["sd1.5", "sdxl", "ssd-1b"])
def test_the_attention_modules_that_files_patch_are_as_many_as_trainers_find(modules: int) -> None:
    unet = {192: SD15_UNET, 722: SDXL_UNET, 360: SSD_1B_UNET}[modules]
    parts = (".attn1.", ".attn2.", ".ff.net.", ".proj_in", ".proj_out")

    assert sum(any(part in path for part in parts) for path, _ in unet.modules()) == modules


@pytest.mark.parametrize(
    ("change", "config"),
    [
        ({}, {}),
        ({"depths": (0, 1), "middle_depth": 1}, {"transformer_layers_per_block": 1, **blocks("-A")}),
        ({"layers": 2}, {"layers_per_block": 2}),
        ({"layers": (1, 2)}, {"layers_per_block": [1, 2]}),
        ({"linear_projection": True}, {"use_linear_projection": True}),
        ({"extra_channels": 5}, {"in_channels": 8}),
        ({"middle_depth": 0}, {"mid_block_type": "UNetMidBlock2D"}),
        ({"middle_depth": None}, {"mid_block_type": None}),
        (
            {"layers": 2, "depths": ((1, 3), 2), "up_depths": ((2, 1, 4), (3, 1, 1))},
            {
                "layers_per_block": 2,
                "transformer_layers_per_block": [[1, 3], 2],
                "reverse_transformer_layers_per_block": [[2, 1, 4], [3, 1, 1]],
            },
        ),
        (
            {"added_width": 40},
            {
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 4,
                "projection_class_embeddings_input_dim": 40,
            },
        ),
        ({"class_width": 24}, {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 24}),
        ({"classes": 30, "extra_channels": 3}, {"num_class_embeds": 30, "in_channels": 6}),
        (
            {"widths": (8, 16, 16, 24), "depths": (0, 2, 1, 0), "middle_depth": 0},
            {
                "block_out_channels": [8, 16, 16, 24],
                "transformer_layers_per_block": [1, 2, 1, 1],
                "mid_block_type": "UNetMidBlock2D",
                **blocks("-AA-"),
            },
        ),
    ],
    ids=str,
)
def test_a_variant_has_the_parameters_that_diffusers_gives_it(change: dict[str, Any], config: dict[str, Any]) -> None:
    unet = UNet(**{**TINY, **change})

    own = [(parameter.path, parameter.shape) for parameter in unet.parameters()]

    assert len(dict(own)) == len(own)
    assert dict(own) == official_shapes("unet", {**TINY_CONFIG, **config})


def test_a_table_of_noise_levels_is_no_site() -> None:
    found = take_inventory({"unet": UNet(**TINY, classes=30).parameters()})

    assert [str(site) for site in found.tables] == ["unet:class_embedding"]
    assert not any("class_embedding" in site.path for site in found.sites)
