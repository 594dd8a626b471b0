"""Flux.1: names and shapes are those of diffusers, fused rows those that its converter takes apart."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from lorax.adapter import Site
from lorax.base_models.flux import FAMILY, ORIGINAL
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

# transformer/config.json of the repositories of black-forest-labs; what is not said is the class's default.
CONFIGS: dict[str, dict[str, Any]] = {
    "flux1-dev": {"in_channels": 64, "guidance_embeds": True},
    "flux1-schnell": {"in_channels": 64, "guidance_embeds": False},
    "flux1-control": {"in_channels": 128, "out_channels": 64, "guidance_embeds": True},
    "flux1-fill": {"in_channels": 384, "out_channels": 64, "guidance_embeds": True},
}
VERSIONS = {base.version: base for base in FAMILY.versions()}
every_version = pytest.mark.parametrize("version", CONFIGS)


@cache
def text_encoders() -> dict[str, Shapes]:
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    clip = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    t5 = T5Config(
        d_model=4096, d_ff=10240, num_layers=24, num_heads=64, d_kv=64, vocab_size=32128, feed_forward_proj="gated-gelu"
    )
    # transformers 5.6 and later leave the level `text_model.` out of this class.
    bare = shapes_of(lambda: CLIPTextModel(clip))
    return {
        "text_encoder": {f"text_model.{name.removeprefix('text_model.')}": shape for name, shape in bare.items()},
        "text_encoder_2": shapes_of(lambda: T5EncoderModel(t5)),
    }


@every_version
def test_the_inventory_is_that_of_diffusers_and_transformers(version: str) -> None:
    from diffusers import FluxTransformer2DModel

    transformer = shapes_of(lambda: FluxTransformer2DModel(**CONFIGS[version]))

    assert_inventory(VERSIONS[version], {"transformer": transformer, **text_encoders()})
    assert VERSIONS[version].parameters == FAMILY.parameters[version]


@every_version
def test_the_converter_of_diffusers_takes_the_original_names_apart_into_the_canonical_ones(version: str) -> None:
    from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers

    base = VERSIONS[version]
    canonical = marked(base, "transformer")
    original = as_named(ORIGINAL(base), canonical, norm_leaf="scale")

    assert_same_rows(convert_flux_transformer_checkpoint_to_diffusers(original), canonical)


def test_fused_modules_have_the_shapes_of_the_code_of_black_forest_labs() -> None:
    modules = {module.path: module for module in ORIGINAL(VERSIONS["flux1-dev"])}

    assert str(modules["double_blocks.18.txt_attn.qkv"].shape) == "9216x3072"
    assert str(modules["single_blocks.37.linear1"].shape) == "21504x3072"
    assert str(modules["single_blocks.37.linear2"].shape) == "3072x15360"
    assert "double_blocks.19.img_mod.lin" not in modules
    assert [module.path for module in modules.values() if module.parts[0].swapped] == ["final_layer.adaLN_modulation.1"]
    site = Site("transformer", "single_transformer_blocks.3.proj_mlp")
    assert [part.rows for part in modules["single_blocks.3.linear1"].parts if part.site == site] == [(9216, 21504)]


def test_every_module_has_a_name_in_the_original_code() -> None:
    for base in VERSIONS.values():
        assert_covers(ORIGINAL, base, "transformer")


def test_no_two_modules_share_a_spelling() -> None:
    assert_spellings_are_of_one_module(FAMILY)


def test_only_the_first_layer_and_the_guidance_tell_the_versions_apart() -> None:
    dev = VERSIONS["flux1-dev"].sites
    for version in ("flux1-schnell", "flux1-control", "flux1-fill"):
        other = VERSIONS[version].sites
        differing = {site.path for site in dev if other.get(site) != dev[site]}
        assert all(path.startswith(("x_embedder", "time_text_embed.guidance")) for path in differing)
        assert other.keys() <= dev.keys()
