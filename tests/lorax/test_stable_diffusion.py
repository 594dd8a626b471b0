from __future__ import annotations

import json
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
import torch

from lorax.adapter import Site
from lorax.base_models import FAMILIES, known_bases, spoken_version
from lorax.base_models.stable_diffusion import SD15_UNET, UNet, clip_modules
from tests.stand_ins.adapter_files import small_base

GOLDEN = Path(__file__).parents[1] / "golden" / "sd15_unet_inventory.json"


def test_the_inventory_of_stable_diffusion_15_is_the_recorded_one() -> None:
    recorded = json.loads(GOLDEN.read_text())

    own = {
        path: ["Conv2d" if shape.kernel else "Linear", list(shape.weight_shape)] for path, shape in SD15_UNET.modules()
    }

    assert len(own) == 282
    assert own == recorded


def test_the_attention_modules_that_files_patch_are_192_and_72() -> None:
    (base,) = [base for base in known_bases() if base.name == "sd1.5"]
    parts = (".attn1.", ".attn2.", ".ff.net.", ".proj_in", ".proj_out")

    unet = [site for site in base.sites if site.component == "unet" and any(part in site.path for part in parts)]

    assert len(unet) == 192
    assert sum(site.component == "text_encoder" for site in base.sites) == 72
    assert base.fingerprint == ""


@pytest.mark.slow
@pytest.mark.parametrize(("layers", "depths"), [(1, (1, 2)), (2, (0, 1))])
def test_an_inventory_is_that_of_the_model_class(layers: int, depths: tuple[int, int]) -> None:
    from diffusers import UNet2DConditionModel

    kinds = [
        ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D") if depth else ("DownBlock2D", "UpBlock2D") for depth in depths
    ]
    with torch.device("meta"):
        model = UNet2DConditionModel(
            in_channels=3,
            out_channels=3,
            block_out_channels=(8, 16),
            layers_per_block=layers,
            down_block_types=tuple(down for down, _ in kinds),
            up_block_types=tuple(up for _, up in reversed(kinds)),
            transformer_layers_per_block=tuple(max(1, depth) for depth in depths),
            cross_attention_dim=12,
            attention_head_dim=4,
            norm_num_groups=4,
        )
    official = {
        name.removesuffix(".weight"): tuple(weight.shape)
        for name, weight in model.named_parameters()
        if weight.ndim in {2, 4}
    }

    own = UNet(channels=3, widths=(8, 16), depths=depths, middle_depth=depths[-1], layers=layers, context=12)

    assert {path: shape.weight_shape for path, shape in own.modules()} == official


@pytest.mark.slow
def test_the_parameters_are_those_of_the_true_models() -> None:
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)
        encoder = CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12))
    weights = [*unet.parameters(), *(p for name, p in encoder.named_parameters() if "embedding" not in name)]

    assert sum(weight.numel() for weight in unet.parameters()) == 859_520_964
    total = sum(weight.numel() for weight in weights if weight.ndim > 1)
    assert FAMILIES["stable-diffusion"].parameters["sd1.5"] == total
    assert sum(prod(shape.weight_shape) for _, shape in clip_modules(12, 768)) == 12 * 12 * 768**2


def test_the_text_encoder_gets_its_lost_level_back() -> None:
    canonical = FAMILIES["stable-diffusion"].canonical

    assert canonical("text_encoder", "encoder.layers.0.mlp.fc1") == "text_model.encoder.layers.0.mlp.fc1"
    assert canonical("text_encoder", "text_model.encoder.layers.0.mlp.fc1") == "text_model.encoder.layers.0.mlp.fc1"
    assert canonical("text_encoder_2", "text_projection.weight") == "text_projection.weight"
    assert canonical("unet", "encoder.conv") == "encoder.conv"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ('{"_class_name": "UNet2DConditionModel"}', True),
        ('{"_class_name": "UNet2DModel"}', False),
        ("[]", False),
        ("{", False),
        ("[" * 100_000, False),
        (" " * 2_000_000 + '{"_class_name": "UNet2DConditionModel"}', False),
    ],
    ids=range(6),
)
def test_a_folder_is_recognised_by_its_unet(config: str, *, expected: bool, tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(config)

    assert FAMILIES["stable-diffusion"].recognises(tmp_path) is expected
    assert not FAMILIES["stable-diffusion"].recognises(tmp_path / "unet")


def test_other_programs_words_are_used_where_there_are_any() -> None:
    assert spoken_version(known_bases()[0]) == ("sd_v1", "stable-diffusion-v1")
    assert spoken_version(small_base("small-v1")) == ("small-v1", "small-v1")
    assert spoken_version(replace(small_base("odd"), family="unheard-of")) == ("odd", "odd")


def test_lookup_tables_are_no_sites() -> None:
    assert Site("text_encoder", "text_model.embeddings.token_embedding") not in known_bases()[0].sites
    assert "token_embedding" in FAMILIES["stable-diffusion"].not_sites
