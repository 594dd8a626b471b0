"""HunyuanVideo, FramePack, Wan, LTX-Video: names and shapes of diffusers, original names of its converters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lorax.base_model import BaseModel, Family
from lorax.base_models import framepack, hunyuan_video, ltx, wan
from lorax.naming import Naming
from tests.lorax.base_models.transformer_oracles import (
    as_named,
    assert_covers,
    assert_inventory,
    assert_same_rows,
    assert_spellings_are_of_one_module,
    inventory_shapes,
    marked,
    shapes_of,
)

WAN_14B = {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40}
# transformer/config.json of each repository; what is not said is the class's default.
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "hunyuan-video-t2v": ("HunyuanVideoTransformer3DModel", {"in_channels": 16, "guidance_embeds": True}),
    "hunyuan-video-i2v-33ch": (
        "HunyuanVideoTransformer3DModel",
        {"in_channels": 33, "guidance_embeds": False, "image_condition_type": "latent_concat"},
    ),
    "framepack": (
        "HunyuanVideoFramepackTransformer3DModel",
        {"guidance_embeds": True, "has_image_proj": True, "image_proj_dim": 1152, "has_clean_x_embedder": True},
    ),
    "wan2.1-t2v-1.3b": ("WanTransformer3DModel", {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}),
    "wan2.1-t2v-14b": ("WanTransformer3DModel", WAN_14B),
    "wan2.1-i2v-14b": (
        "WanTransformer3DModel", {**WAN_14B, "in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120}
    ),
    "wan2.2-ti2v-5b": (
        "WanTransformer3DModel",
        {"num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30, "in_channels": 48, "out_channels": 48},
    ),
    "wan2.2-t2v-a14b": ("WanTransformer3DModel", WAN_14B),
    "wan2.2-i2v-a14b": ("WanTransformer3DModel", {**WAN_14B, "in_channels": 36}),
    "ltx-video-2b": ("LTXVideoTransformer3DModel", {"cross_attention_dim": 2048, "num_layers": 28}),
    "ltx-video-13b": (
        "LTXVideoTransformer3DModel", {"attention_head_dim": 128, "cross_attention_dim": 4096, "num_layers": 48}
    ),
}  # fmt: skip
FAMILIES = {module.FAMILY.name: module.FAMILY for module in (framepack, hunyuan_video, ltx, wan)}
VERSIONS = {base.version: base for family in FAMILIES.values() for base in family.versions()}
every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
every_version = pytest.mark.parametrize("version", CONFIGS)


def converted(base: BaseModel, naming: Naming, converter: Callable[[Any], dict[str, torch.Tensor]]) -> None:
    """Asserts that a converter of diffusers turns a marked original state dict into the canonical one."""
    canonical = marked(base, "transformer")
    assert_same_rows(converter(as_named(naming(base), canonical)), canonical)


@every_version
def test_the_inventory_is_that_of_diffusers(version: str) -> None:
    import diffusers

    base, (class_name, config) = VERSIONS[version], CONFIGS[version]
    shapes = shapes_of(lambda: getattr(diffusers, class_name)(**config))

    components = {site.component for site in base.sites}
    assert_inventory(base, dict.fromkeys(components, shapes), free=("scale_shift_table",))
    assert base.parameters == FAMILIES[base.family].parameters[version]


def test_every_version_has_its_configuration_here() -> None:
    assert VERSIONS.keys() == CONFIGS.keys()


@every_family
def test_no_two_modules_share_a_spelling(family: Family) -> None:
    assert_spellings_are_of_one_module(family)


@pytest.mark.parametrize("version", ["hunyuan-video-t2v", "hunyuan-video-i2v-33ch"])
def test_the_converter_of_hunyuan_video_takes_the_original_names_apart(version: str) -> None:
    from diffusers.loaders.single_file_utils import convert_hunyuan_video_transformer_to_diffusers

    base, naming = VERSIONS[version], FAMILIES["hunyuan-video"].namings["original"]

    assert_covers(naming, base, "transformer")
    converted(base, naming, convert_hunyuan_video_transformer_to_diffusers)


@pytest.mark.parametrize("version", [base.version for base in FAMILIES["wan"].versions()])
def test_the_converter_of_wan_finds_the_canonical_names(version: str) -> None:
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    base, naming = VERSIONS[version], FAMILIES["wan"].namings["original"]

    assert_covers(naming, base, "transformer")
    converted(base, naming, convert_wan_transformer_to_diffusers)


def test_both_experts_of_wan_have_the_same_names_in_components_of_their_own() -> None:
    namings = FAMILIES["wan"].namings
    base = VERSIONS["wan2.2-t2v-a14b"]
    high, low = list(namings["original"](base)), list(namings["original-2"](base))

    assert [module.path for module in high] == [module.path for module in low]
    assert {module.component for module in high} == {"transformer"}
    assert {module.component for module in low} == {"transformer_2"}
    assert inventory_shapes(base, "transformer") == inventory_shapes(VERSIONS["wan2.1-t2v-14b"], "transformer")
    assert list(namings["original-2"](VERSIONS["wan2.1-t2v-14b"])) == []


@pytest.mark.parametrize("version", ["ltx-video-2b", "ltx-video-13b"])
def test_the_converter_of_ltx_video_finds_the_canonical_names(version: str) -> None:
    from diffusers.loaders.single_file_utils import convert_ltx_transformer_checkpoint_to_diffusers

    base = VERSIONS[version]
    canonical = marked(base, "transformer")
    original = as_named(FAMILIES["ltx-video"].namings["original"](base), canonical)
    untouched = {name: rows for name, rows in canonical.items() if name.startswith(("caption_", "proj_out"))}

    # Only modules with another name are listed.
    found = convert_ltx_transformer_checkpoint_to_diffusers(original)
    assert_same_rows(found, {name: canonical[name] for name in found})
    renamed = {name for name in canonical if "norm_" in name or name.startswith(("proj_in", "time_embed"))}
    assert found.keys() == renamed
    assert not untouched.keys() & found.keys()


def test_hunyuan_video_and_framepack_share_what_adapters_patch() -> None:
    first, second = VERSIONS["hunyuan-video-t2v"].sites, VERSIONS["framepack"].sites

    assert {site.path.partition(".")[0] for site in second.keys() - first.keys()} == {
        "clean_x_embedder",
        "image_projection",
    }
    assert all(second[site] == shape for site, shape in first.items())
