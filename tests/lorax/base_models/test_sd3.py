"""Stable Diffusion 3: names and shapes are those of diffusers, fused rows those that its converter takes apart."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from lorax.base_models.sd3 import FAMILY, ORIGINAL
from tests.lorax.base_models.transformer_oracles import (
    Shapes,
    as_named,
    assert_covers,
    assert_inventory,
    assert_same_rows,
    assert_spellings_are_of_one_module,
    marked,
    shapes_of,
)

COMMON = {"attention_head_dim": 64, "joint_attention_dim": 4096, "pooled_projection_dim": 2048, "in_channels": 16}
# transformer/config.json of the repositories of stabilityai.
CONFIGS: dict[str, dict[str, Any]] = {
    "sd3-medium": {
        **COMMON, "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 192
    },
    "sd3.5-medium": {
        **COMMON, "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536,
        "pos_embed_max_size": 384, "qk_norm": "rms_norm", "dual_attention_layers": tuple(range(13)),
    },
    "sd3.5-large": {
        **COMMON, "num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432,
        "pos_embed_max_size": 192, "qk_norm": "rms_norm",
    },
}  # fmt: skip
VERSIONS = {base.version: base for base in FAMILY.versions()}
every_version = pytest.mark.parametrize("version", CONFIGS)


@cache
def text_encoders() -> dict[str, Shapes]:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

    small = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, projection_dim=768)
    large = CLIPTextConfig(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, projection_dim=1280)
    t5 = T5Config(
        d_model=4096, d_ff=10240, num_layers=24, num_heads=64, d_kv=64, vocab_size=32128, feed_forward_proj="gated-gelu"
    )
    return {
        "text_encoder": shapes_of(lambda: CLIPTextModelWithProjection(small)),
        "text_encoder_2": shapes_of(lambda: CLIPTextModelWithProjection(large)),
        "text_encoder_3": shapes_of(lambda: T5EncoderModel(t5)),
    }


@every_version
def test_the_inventory_is_that_of_diffusers_and_transformers(version: str) -> None:
    from diffusers import SD3Transformer2DModel

    transformer = shapes_of(lambda: SD3Transformer2DModel(**CONFIGS[version]))

    assert_inventory(VERSIONS[version], {"transformer": transformer, **text_encoders()})
    assert VERSIONS[version].parameters == FAMILY.parameters[version]


@every_version
def test_the_converter_of_diffusers_takes_the_original_names_apart_into_the_canonical_ones(version: str) -> None:
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    base = VERSIONS[version]
    canonical = marked(base, "transformer")
    original = as_named(ORIGINAL(base), canonical)
    positions = torch.zeros(1)

    converted = convert_sd3_transformer_checkpoint_to_diffusers({**original, "pos_embed": positions})

    assert converted.pop("pos_embed.pos_embed") is positions
    assert_same_rows(converted, canonical)


@every_version
def test_the_last_modulations_lie_the_other_way_round(version: str) -> None:
    last = CONFIGS[version]["num_layers"] - 1
    swapped = [module.path for module in ORIGINAL(VERSIONS[version]) if module.parts[0].swapped]

    text = f"joint_blocks.{last}.context_block.adaLN_modulation.1"
    assert sorted(swapped) == ["final_layer.adaLN_modulation.1", text]


def test_every_module_has_a_name_in_the_original_code() -> None:
    for base in VERSIONS.values():
        assert_covers(ORIGINAL, base, "transformer")


def test_no_two_modules_share_a_spelling() -> None:
    assert_spellings_are_of_one_module(FAMILY)
