"""ViT, CLIP and T5 on their own: inventories are those of transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorax.base_model import Family
from lorax.base_models import clip, t5, vit
from tests.lorax.base_models.transformer_oracles import (
    assert_inventory,
    assert_spellings_are_of_one_module,
    inventory_shapes,
    shapes_of,
)

FAMILIES = {module.FAMILY.name: module.FAMILY for module in (clip, t5, vit)}
VERSIONS = {base.version: base for family in FAMILIES.values() for base in family.versions()}
every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())

LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}


def vit_model(labels: int, **config: Any) -> Callable[[], Any]:
    from transformers import ViTConfig, ViTForImageClassification, ViTModel

    if labels:
        return lambda: ViTForImageClassification(ViTConfig(num_labels=labels, **config))
    return lambda: ViTModel(ViTConfig(**config))


def clip_model(shared: int, vision: dict[str, Any], text: dict[str, Any]) -> Callable[[], Any]:
    from transformers import CLIPConfig, CLIPModel

    return lambda: CLIPModel(CLIPConfig(projection_dim=shared, vision_config=vision, text_config=text))


def t5_model(layers: int, width: int, heads: int, inner: int, *, encoder: bool = False) -> Callable[[], Any]:
    from transformers import T5Config, T5EncoderModel, T5ForConditionalGeneration

    config = T5Config(
        d_model=width, d_ff=inner, num_layers=layers, num_heads=heads, d_kv=64, vocab_size=32128,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    if encoder:
        return lambda: T5EncoderModel(config)

    def build() -> Any:
        # transformers 5 ties the head whatever the configuration says, and looks at the checkpoint later. Those of
        # T5 1.1 have a head of their own, and one token table.
        config.tie_word_embeddings = False
        model = T5ForConditionalGeneration(config)
        model.encoder.embed_tokens = model.decoder.embed_tokens = model.shared
        return model

    return build


SMALL_TEXT = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
LARGE_TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
# The numbers of the config.json of each model on the Hub.
MODELS: dict[str, Callable[[], Callable[[], Any]]] = {
    "vit-base-patch16-224": lambda: vit_model(1000),
    "vit-base-patch16-224-in21k": lambda: vit_model(0),
    "vit-base-patch32-384": lambda: vit_model(1000, patch_size=32, image_size=384),
    "vit-large-patch16-224": lambda: vit_model(1000, **LARGE),
    "vit-large-patch16-224-in21k": lambda: vit_model(0, **LARGE),
    "clip-vit-base-patch32": lambda: clip_model(512, {"patch_size": 32}, SMALL_TEXT),
    "clip-vit-base-patch16": lambda: clip_model(512, {"patch_size": 16}, SMALL_TEXT),
    "clip-vit-large-patch14": lambda: clip_model(768, {"patch_size": 14, **LARGE}, LARGE_TEXT),
    "flan-t5-small": lambda: t5_model(8, 512, 6, 1024),
    "flan-t5-base": lambda: t5_model(12, 768, 12, 2048),
    "flan-t5-large": lambda: t5_model(24, 1024, 16, 2816),
    "flan-t5-xl": lambda: t5_model(24, 2048, 32, 5120),
    "flan-t5-xxl": lambda: t5_model(24, 4096, 64, 10240),
    "t5-v1.1-xxl-encoder": lambda: t5_model(24, 4096, 64, 10240, encoder=True),
}


def checkpoint_name(name: str, base_family: str) -> str:
    """Returns the name that a checkpoint has for a parameter that transformers 5 calls `name`."""
    return FAMILIES[base_family].canonical("model", name)


@pytest.mark.parametrize("version", MODELS)
def test_the_inventory_is_that_of_transformers(version: str) -> None:
    base = VERSIONS[version]
    shapes = {checkpoint_name(name, base.family): shape for name, shape in shapes_of(MODELS[version]()).items()}

    assert_inventory(base, {"model": shapes}, free=("cls_token", "position_embeddings", "logit_scale"))
    assert base.parameters == FAMILIES[base.family].parameters[version]


def test_every_version_has_its_model_here() -> None:
    assert VERSIONS.keys() == MODELS.keys()


def test_checkpoints_of_vit_are_read_by_old_and_new_names_with_and_without_head() -> None:
    family, base = FAMILIES["vit"], VERSIONS["vit-base-patch16-224"]
    canonical = inventory_shapes(base, "model")

    for name in canonical:
        for spelled in (name, vit.new_name(name), name.removeprefix("vit."), vit.new_name(name.removeprefix("vit."))):
            assert family.canonical("model", spelled) == name
    assert vit.new_name("vit.encoder.layer.3.attention.attention.query") == "vit.layers.3.attention.q_proj"


def test_the_rule_of_transformers_for_old_checkpoints_gives_the_new_names() -> None:
    from transformers import ViTConfig, ViTForImageClassification

    new = shapes_of(lambda: ViTForImageClassification(ViTConfig(num_labels=1000)))
    vectors_and_weights = {name for name in new if not name.endswith(("cls_token", "position_embeddings"))}

    base = VERSIONS["vit-base-patch16-224"]
    assert {vit.new_name(name) for name in inventory_shapes(base, "model")} == vectors_and_weights


@every_family
def test_no_two_modules_share_a_spelling(family: Family) -> None:
    assert_spellings_are_of_one_module(family)


@every_family
def test_a_folder_is_recognised_by_its_model_type(family: Family, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family.name}))

    assert [name for name, other in FAMILIES.items() if other.recognises(tmp_path)] == [family.name]
    assert family.components(tmp_path) == {"model": tmp_path}


def test_the_vision_model_of_clip_alone_has_no_level_of_its_own() -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    family, base = FAMILIES["clip"], VERSIONS["clip-vit-large-patch14"]
    alone = shapes_of(lambda: CLIPVisionModel(CLIPVisionConfig(patch_size=14, **LARGE)))
    sites = {module.path: module.parts[0].site for module in family.namings["vision"](base)}

    linear = {name.removesuffix(".weight"): shape for name, shape in alone.items() if len(shape) == 2}
    assert linear
    for name, shape in linear.items():
        site = sites[name]
        assert (base.sites.get(site) or base.tables[site]).weight_shape == shape
