"""Qwen-Image and Lumina-Image 2.0: names and shapes of diffusers, and the original names of its converter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lorax.base_model import Family
from lorax.base_models import flux, framepack, hunyuan_video, ltx, lumina2, qwen_image, sd3, wan
from tests.lorax.base_models.transformer_oracles import (
    as_named,
    assert_covers,
    assert_inventory,
    assert_same_rows,
    assert_spellings_are_of_one_module,
    marked,
    shapes_of,
)

# transformer/config.json of each repository; what is not said is the class's default.
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen-image": ("QwenImageTransformer2DModel", {"num_layers": 60, "joint_attention_dim": 3584}),
    "lumina2": ("Lumina2Transformer2DModel", {"hidden_size": 2304, "num_layers": 26, "cap_feat_dim": 2304}),
}
FAMILIES = {module.FAMILY.name: module.FAMILY for module in (lumina2, qwen_image)}
PIPELINES = [module.FAMILY for module in (flux, framepack, hunyuan_video, ltx, lumina2, qwen_image, sd3, wan)]
CLASSES = {
    "flux": "FluxTransformer2DModel",
    "framepack": "HunyuanVideoFramepackTransformer3DModel",
    "hunyuan-video": "HunyuanVideoTransformer3DModel",
    "ltx-video": "LTXVideoTransformer3DModel",
    "lumina2": "Lumina2Transformer2DModel",
    "qwen-image": "QwenImageTransformer2DModel",
    "stable-diffusion-3": "SD3Transformer2DModel",
    "wan": "WanTransformer3DModel",
}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
def test_the_inventory_is_that_of_diffusers(family: Family) -> None:
    import diffusers

    (base,) = family.versions()
    class_name, config = CONFIGS[base.version]

    assert_inventory(base, {"transformer": shapes_of(lambda: getattr(diffusers, class_name)(**config))})
    assert base.parameters == family.parameters[base.version]


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
def test_no_two_modules_share_a_spelling(family: Family) -> None:
    assert_spellings_are_of_one_module(family)


def test_qwen_image_edit_has_the_modules_of_qwen_image() -> None:
    from diffusers import QwenImageTransformer2DModel

    edit = shapes_of(lambda: QwenImageTransformer2DModel(zero_cond_t=True))

    assert_inventory(qwen_image.FAMILY.versions()[0], {"transformer": edit})


def test_the_converter_of_lumina_takes_the_original_names_apart() -> None:
    from diffusers.loaders.single_file_utils import convert_lumina2_to_diffusers

    (base,) = lumina2.FAMILY.versions()
    canonical = marked(base, "transformer")

    assert_covers(lumina2.ORIGINAL, base, "transformer")
    assert_same_rows(convert_lumina2_to_diffusers(as_named(lumina2.ORIGINAL(base), canonical)), canonical)


@pytest.mark.parametrize("family", PIPELINES, ids=lambda family: family.name)
def test_a_folder_is_recognised_by_the_class_of_its_transformer(family: Family, tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    config = tmp_path / "transformer" / "config.json"
    config.write_text(json.dumps({"_class_name": CLASSES[family.name]}))

    assert [other.name for other in PIPELINES if other.recognises(tmp_path)] == [family.name]
    assert family.components(tmp_path) == {"transformer": tmp_path / "transformer"}


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"_class_name": ["FluxTransformer2DModel"]}']
)
def test_a_broken_configuration_is_no_member(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_bytes(content)

    assert not any(family.recognises(tmp_path) for family in PIPELINES)
