from __future__ import annotations

import re
from collections import Counter

import pytest

from lorax.adapter import Site
from lorax.base_model import BaseModel
from lorax.base_models import known_bases
from lorax.base_pair import correspondence, rule_for

LAYER = re.compile(r"model\.layers\.(\d+)\.(.*)")


def known(name: str) -> BaseModel:
    return next(base for base in known_bases() if base.name == name)


def layers(source: str, target: str) -> dict[int, int]:
    """Returns layer -> layer of the source."""
    found: dict[int, set[int]] = {}
    for site, origin in correspondence(known(source), known(target)).items():
        there, here = LAYER.fullmatch(site.path), isinstance(origin, Site) and LAYER.fullmatch(origin.path)
        if there and here:
            found.setdefault(int(there[1]), set()).add(int(here[1]))
    assert all(len(origins) == 1 for origins in found.values())
    return {number: origins.pop() for number, origins in found.items()}


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("llama-3-8b", "llama-3.2-1b"),
        ("qwen2.5-7b", "qwen2.5-0.5b"),
        ("llama-3.2-1b", "llama-3-8b"),
        ("gemma-2-2b", "gemma-2-9b"),
    ],
)
def test_layers_are_paired_in_order_first_with_first_and_last_with_last(source: str, target: str) -> None:
    found = layers(source, target)
    depths = [sum(site.path.endswith("o_proj") for site in known(name).sites) for name in (source, target)]
    assert len(found) == min(depths)
    assert list(found.values()) == sorted(set(found.values()))
    assert (found[0], found[depths[1] - 1]) == (0, depths[0] - 1)


def test_every_layer_of_the_smaller_model_has_all_its_roles_fed() -> None:
    found = correspondence(known("qwen2.5-7b"), known("qwen2.5-0.5b"))
    assert all(isinstance(origin, Site) for origin in found.values())


def test_layers_of_a_deeper_target_without_a_partner_stay_as_they_are() -> None:
    found = correspondence(known("llama-3.2-1b"), known("llama-3-8b"))
    reasons = Counter(origin for origin in found.values() if isinstance(origin, str))
    assert reasons == {"no-source-block": 16 * 7, "no-such-site": 1}


def test_fused_projections_against_split_ones_say_so() -> None:
    found = correspondence(known("phi-3-mini"), known("llama-3-8b"))
    layer = "model.layers.5"
    for role in ("self_attn.q_proj", "self_attn.k_proj", "mlp.gate_proj", "mlp.up_proj"):
        assert found[Site("model", f"{layer}.{role}")] == "fused-projections"
    for role in ("self_attn.o_proj", "mlp.down_proj"):
        assert found[Site("model", f"{layer}.{role}")] == Site("model", f"{layer}.{role}")
    back = correspondence(known("llama-3-8b"), known("phi-3-mini"))
    assert back[Site("model", f"{layer}.self_attn.qkv_proj")] == "fused-projections"
    assert back[Site("model", f"{layer}.mlp.gate_up_proj")] == "fused-projections"


def test_another_kind_of_feed_forward_says_so() -> None:
    plain = correspondence(known("phi-2"), known("llama-3-8b"))
    assert plain[Site("model", "model.layers.0.mlp.down_proj")] == "other-feed-forward"
    assert plain[Site("model", "model.layers.0.self_attn.o_proj")] == Site("model", "model.layers.0.self_attn.dense")
    experts = correspondence(known("qwen3-8b"), known("qwen3-30b-a3b"))
    assert experts[Site("model", "model.layers.0.mlp.experts.down_proj[3]")] == "other-feed-forward"
    assert experts[Site("model", "model.layers.0.mlp.gate")] == "other-feed-forward"


def test_output_heads_correspond_where_the_vocabulary_is_the_same() -> None:
    head = Site("model", "lm_head")
    assert correspondence(known("llama-2-7b"), known("mistral-7b"))[head] == head
    assert correspondence(known("llama-3-8b"), known("mistral-7b"))[head] == "other-vocabulary"


def test_an_image_to_video_sibling_differs_in_its_input_and_in_what_only_it_has() -> None:
    source, target = known("wan2.1-t2v-14b"), known("wan2.1-i2v-14b")
    found = correspondence(source, target)
    assert rule_for(source, target).name == "same-architecture"
    fed = {site: origin for site, origin in found.items() if isinstance(origin, Site)}
    assert len(fed) == len(source.sites) == 407
    assert [site.path for site, origin in fed.items() if source.sites[origin] != target.sites[site]] == [
        "patch_embedding"
    ]
    assert {origin for origin in found.values() if isinstance(origin, str)} == {"no-such-site"}


def test_framepack_is_fed_by_hunyuan_video() -> None:
    found = correspondence(known("hunyuan-video-t2v"), known("framepack"))
    assert sum(isinstance(origin, Site) for origin in found.values()) == 548


def test_sizes_of_a_video_model_are_aligned_layer_by_layer() -> None:
    found = correspondence(known("wan2.1-t2v-1.3b"), known("wan2.1-t2v-14b"))
    last = Site("transformer", "blocks.39.attn1.to_q")
    assert found[last] == Site("transformer", "blocks.29.attn1.to_q")
    assert sum(origin == "no-source-block" for origin in found.values()) == 10 * 10
