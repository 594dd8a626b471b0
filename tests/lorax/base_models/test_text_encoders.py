from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import pytest
import torch

from lorax.inventories.text_encoders import (
    CLIP_TABLES,
    T5_TABLES,
    clip_text,
    own_names_and_text_encoders,
    t5_encoder,
    text_encoder_names,
    with_text_model,
)
from lorax.inventory import Parameters, take_inventory
from tests.lorax.base_models.unet_configs import official_shapes
from tests.stand_ins.adapter_files import small_base


def shapes(parameters: Parameters) -> dict[str, tuple[int, ...]]:
    return {parameter.path: parameter.shape for parameter in parameters}


@pytest.mark.parametrize("kind", ["clip", "clip with projection"])
def test_a_clip_text_encoder_has_the_parameters_that_transformers_gives_it(kind: str) -> None:
    config = {"hidden_size": 24, "intermediate_size": 80, "num_attention_heads": 4, "num_hidden_layers": 3}
    config |= {"vocab_size": 50, "max_position_embeddings": 20}
    projection = {"projection_dim": 40} if kind == "clip with projection" else {}

    own = shapes(clip_text(3, 24, projection=projection.get("projection_dim"), vocab=50, positions=20, intermediate=80))

    official = official_shapes("text_encoder", {**config, **projection})
    assert own == {with_text_model(name): shape for name, shape in official.items()}


@pytest.mark.parametrize(
    ("parameters", "published"),
    [
        (clip_text(12, 768), 123_060_480),
        (clip_text(23, 1024), 340_387_840),
        (clip_text(32, 1280, projection=1280), 694_659_840),
        (t5_encoder(24, 4096, 4096, 10240), 4_762_310_656),
    ],
    ids=["CLIP-L", "OpenCLIP-H", "OpenCLIP-bigG", "T5-XXL"],
)
def test_the_numbers_of_parameters_are_the_published_ones(parameters: Parameters, published: int) -> None:
    assert sum(prod(parameter.shape) for parameter in parameters) == published


def made_by_transformers(kind: str, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    import transformers

    with torch.device("meta"):
        model = getattr(transformers, f"{kind}EncoderModel")(getattr(transformers, f"{kind}Config")(**config))
    return {name: tuple(weight.shape) for name, weight in model.named_parameters()}


@pytest.mark.parametrize(("kind", "gated"), [("T5", True), ("T5", False), ("UMT5", True)])
def test_a_t5_encoder_has_the_parameters_that_transformers_gives_it(kind: str, *, gated: bool) -> None:
    config = {"d_model": 48, "d_kv": 64, "num_heads": 2, "d_ff": 96, "num_layers": 3, "vocab_size": 70}
    config["feed_forward_proj"] = "gated-gelu" if gated else "relu"

    own = shapes(t5_encoder(3, 48, 128, 96, vocab=70, gated=gated, bias_in_every_layer=kind == "UMT5"))

    assert own == made_by_transformers(kind, config)


def test_lookup_tables_are_told_from_layers() -> None:
    clip = take_inventory({"text_encoder": clip_text(1, 12, projection=12)})
    t5 = take_inventory({"text_encoder_2": t5_encoder(1, 64, 64, 128)})

    assert {site.path.rpartition(".")[2] for site in clip.tables} == CLIP_TABLES
    assert {site.path.rpartition(".")[2] for site in t5.tables} == T5_TABLES - {"embed_tokens"}
    assert sum(site.path == "text_projection" for site in clip.sites) == 1


def test_clip_is_also_called_as_newer_transformers_call_it() -> None:
    base = small_base()
    both = {module.path: module.parts for module in own_names_and_text_encoders(base)}

    bare = [module for module in text_encoder_names(base) if module.path == "encoder.layers.0.mlp.fc1"]

    assert [module.parts for module in bare] == [both["text_model.encoder.layers.0.mlp.fc1"]]
    assert all(module.component == "text_encoder" for module in text_encoder_names(base))
    assert list(both).index("text_model.encoder.layers.0.mlp.fc1") < list(both).index("encoder.layers.0.mlp.fc1")
