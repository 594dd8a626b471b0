from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorax.adapter import Site
from lorax.base_model import BaseModel
from lorax.base_models import known_bases
from lorax.base_pair import SiteSimilarity
from lorax.checkpoint import open_checkpoint
from lorax.comparison import Comparison, _likeness, compare_bases, compare_checkpoints
from lorax.expectations import CASES, EXPECTED
from lorax.places import Place, network_order, place_of


def known(name: str) -> BaseModel:
    return next(base for base in known_bases() if base.name == name)


def compared(digits: Path, source: str, target: str) -> Comparison:
    bases = [open_checkpoint(digits / "bases" / name, name=name) for name in (source, target)]
    return compare_checkpoints(*bases)


@pytest.mark.parametrize(
    ("target", "case"),
    [
        ("digits-v1", "same"),
        ("digits-v2", "lineage"),
        ("digits-slim", "blocks-removed"),
        ("digits-other", "strangers"),
    ],
)
def test_weights_tell_how_two_bases_are_related(digits: Path, target: str, case: str) -> None:
    found = compared(digits, "digits-v1", target)
    assert found.case == case
    assert found.share == 1.0


@pytest.mark.parametrize(
    ("distance", "overlap", "whole", "case"),
    [
        (0.001, 1.0, True, "same"),
        (0.001, 1.0, False, "blocks-removed"),
        (0.4, 0.6, True, "lineage"),
        (0.8, 0.05, True, "related"),
        (1.3, 0.2, True, "related"),
        (1.41, 0.02, True, "strangers"),
        (1.41, 0.02, False, "strangers"),
    ],
)
def test_the_medians_decide(distance: float, overlap: float, *, whole: bool, case: str) -> None:
    typical = SiteSimilarity("unet:mid", distance, overlap, overlap)
    odd = SiteSimilarity("unet:conv_in", 9.0, -1.0, -1.0)
    assert _likeness([typical, odd, typical], whole=whole) == case


def test_a_deeper_target_is_of_one_lineage_with_blocks_added(digits: Path) -> None:
    found = compared(digits, "digits-slim", "digits-v1")
    assert found.case == "blocks-removed"
    assert found.reasons == {"no-source-block": 55}


def test_likeness_is_one_within_a_base_and_at_chance_between_strangers(digits: Path) -> None:
    same, stranger = (compared(digits, "digits-v1", target) for target in ("digits-v1", "digits-other"))
    assert all(part.alike == pytest.approx(1.0) for part in same.parts())
    assert all(abs(part.alike or 0.0) < 0.1 for part in stranger.parts() if part.sites > 4)


@pytest.mark.parametrize(
    ("source", "target", "case"),
    [
        ("sdxl", "ssd-1b", "blocks-removed"),
        ("sd1.5", "bk-sdm-tiny", "blocks-removed"),
        ("sd2.1", "bk-sdm-tiny", "unknown"),
        ("sd1.5", "sdxl", "strangers"),
        ("sdxl", "sdxl", "unknown"),
        ("llama-3-8b", "llama-3.2-1b", "other-width"),
        ("flux1-dev", "sd3-medium", "unrelated"),
    ],
)
def test_names_and_shapes_tell_what_is_known_without_weights(source: str, target: str, case: str) -> None:
    found = compare_bases(known(source), known(target))
    assert found.case == case
    assert not found.has_weights
    assert all(part.alike is None for part in found.parts())


def test_every_case_has_words_and_the_same_methods() -> None:
    assert set(CASES) == set(EXPECTED)
    assert {tuple(words) for words in EXPECTED.values()} == {("copy", "lora-x", "auto", "refresh")}


def test_the_parts_add_up_to_the_target_in_the_order_of_the_network() -> None:
    parts = compare_bases(known("sd1.5"), known("sdxl")).parts()
    assert [part.part for part in parts] == [
        "outside", "down 0", "down 1", "down 2", "mid", "up 0", "up 1", "up 2", "text encoder", "text encoder 2",
    ]  # fmt: skip
    assert sum(part.sites for part in parts) == len(known("sdxl").sites)
    assert sum(part.with_source for part in parts) == 274


def test_the_record_is_plain_json_and_complete(digits: Path) -> None:
    found = compared(digits, "digits-v1", "digits-slim")
    record = json.loads(json.dumps(found.to_json()))
    assert len(record["sites"]) == len(found.sites)
    assert record["case"] == "blocks-removed"
    assert len(record["without_home"]) == 55
    assert {"site", "source", "reason", "same_shape", "weight_distance", "left", "right"} == set(record["sites"][0])


@pytest.mark.parametrize(
    ("site", "place"),
    [
        ("unet:conv_in", Place("outside", "outside", "conv_in")),
        ("unet:mid_block.attentions.0.transformer_blocks.7.attn1.to_q", Place("mid", "mid", "attn1.to_q")),
        ("unet:down_blocks.1.downsamplers.0.conv", Place("down 1", "down 1", "downsamplers")),
        ("transformer:blocks.12.ffn.net.0.proj", Place("blocks", "blocks 12", "ffn.net.0.proj")),
        ("transformer_2:blocks.1.attn1.to_q", Place("transformer_2 blocks", "transformer_2 blocks 1", "attn1.to_q")),
        ("transformer:condition_embedder.image_embedder.ff.net.0.proj",
         Place("outside", "outside", "condition_embedder.image_embedder.ff.net.0.proj")),
        ("model:model.layers.3.mlp.experts.down_proj[12]",
         Place("model.layers", "model.layers 3", "mlp.experts.down_proj")),
        ("text_encoder_2:text_model.encoder.layers.3.mlp.fc1", Place("text encoder 2", "text encoder 2", "mlp.fc1")),
    ],
)  # fmt: skip
def test_a_site_has_a_place_in_words(site: str, place: Place) -> None:
    assert place_of(Site.parse(site)) == place


def test_columns_are_sorted_by_number() -> None:
    assert sorted(["blocks 10", "up 0", "blocks 9", "text encoder", "down 1"], key=network_order) == [
        "down 1", "up 0", "blocks 9", "blocks 10", "text encoder",
    ]  # fmt: skip
