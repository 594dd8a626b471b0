"""Language models: inventories are those of transformers, made by formula or from a configuration alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lorax.adapter import Site
from lorax.base_model import CUSTOM
from lorax.base_models import gemma, llama, phi, qwen
from lorax.decoders import base_from_config
from lorax.errors import BadFile
from tests.lorax.base_models.transformer_oracles import (
    assert_inventory,
    assert_spellings_are_of_one_module,
    inventory_shapes,
    shapes_of,
)

FAMILIES = {module.FAMILY.name: module.FAMILY for module in (gemma, llama, phi, qwen)}
VERSIONS = {base.version: base for family in FAMILIES.values() for base in family.versions()}
every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())


def config(
    model_type: str, layers: int, hidden: int, heads: int, keys: int, inner: int, vocab: int, **more: Any
) -> Any:
    """Returns a config.json in the fields that decide about shapes."""
    return {
        "model_type": model_type, "num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads,
        "num_key_value_heads": keys, "intermediate_size": inner, "vocab_size": vocab, **more,
    }  # fmt: skip


TIED = {"tie_word_embeddings": True}
QWEN3 = {"head_dim": 128, "attention_bias": False}

# The numbers of the config.json of each model on the Hub.
CONFIGS = {
    "tinyllama-1.1b": config("llama", 22, 2048, 32, 4, 5632, 32000),
    "llama-2-7b": config("llama", 32, 4096, 32, 32, 11008, 32000),
    "llama-3-8b": config("llama", 32, 4096, 32, 8, 14336, 128256),
    "llama-3.2-1b": config("llama", 16, 2048, 32, 8, 8192, 128256, head_dim=64, **TIED),
    "llama-3.2-3b": config("llama", 28, 3072, 24, 8, 8192, 128256, head_dim=128, **TIED),
    "mistral-7b": config("mistral", 32, 4096, 32, 8, 14336, 32000),
    "mistral-7b-v0.3": config("mistral", 32, 4096, 32, 8, 14336, 32768),
    "qwen2.5-0.5b": config("qwen2", 24, 896, 14, 2, 4864, 151936, **TIED),
    "qwen2.5-1.5b": config("qwen2", 28, 1536, 12, 2, 8960, 151936, **TIED),
    "qwen2.5-3b": config("qwen2", 36, 2048, 16, 2, 11008, 151936, **TIED),
    "qwen2.5-7b": config("qwen2", 28, 3584, 28, 4, 18944, 152064, tie_word_embeddings=False),
    "qwen3-0.6b": config("qwen3", 28, 1024, 16, 8, 3072, 151936, **QWEN3, **TIED),
    "qwen3-1.7b": config("qwen3", 28, 2048, 16, 8, 6144, 151936, **QWEN3, **TIED),
    "qwen3-4b": config("qwen3", 36, 2560, 32, 8, 9728, 151936, **QWEN3, **TIED),
    "qwen3-8b": config("qwen3", 36, 4096, 32, 8, 12288, 151936, **QWEN3),
    "qwen3-30b-a3b": config(
        "qwen3_moe", 48, 2048, 32, 4, 6144, 151936, **QWEN3, num_experts=128, moe_intermediate_size=768,
        num_experts_per_tok=8, decoder_sparse_step=1, mlp_only_layers=[], tie_word_embeddings=False,
    ),
    "gemma-2b": config("gemma", 18, 2048, 8, 1, 16384, 256000, head_dim=256),
    "gemma-7b": config("gemma", 28, 3072, 16, 16, 24576, 256000, head_dim=256),
    "gemma-2-2b": config("gemma2", 26, 2304, 8, 4, 9216, 256000, head_dim=256),
    "gemma-2-9b": config("gemma2", 42, 3584, 16, 8, 14336, 256000, head_dim=256),
    "gemma-3-270m": config("gemma3_text", 18, 640, 4, 1, 2048, 262144, head_dim=256),
    "gemma-3-1b": config("gemma3_text", 26, 1152, 4, 1, 6912, 262144, head_dim=256),
    "phi-1.5": config("phi", 24, 2048, 32, 32, 8192, 51200),
    "phi-2": config("phi", 32, 2560, 32, 32, 10240, 51200),
    "phi-3-mini": config("phi3", 32, 3072, 32, 32, 8192, 32064, pad_token_id=0),
    "phi-3-medium": config("phi3", 40, 5120, 40, 10, 17920, 32064, pad_token_id=0),
    "phi-4": config("phi3", 40, 5120, 40, 10, 17920, 100352, pad_token_id=0),
}  # fmt: skip

# Members that no version is, for what only a configuration says.
OTHERS = {
    "llama with biases": config("llama", 2, 64, 4, 2, 96, 100, attention_bias=True, mlp_bias=True),
    "qwen3 with biases": config("qwen3", 2, 64, 4, 2, 96, 100, attention_bias=True, head_dim=32),
    "mixture with dense layers": config(
        "qwen3_moe", 6, 64, 4, 2, 96, 100, num_experts=4, moe_intermediate_size=32, decoder_sparse_step=2,
        mlp_only_layers=[3], head_dim=16,
    ),
    "gemma with biases": config("gemma3_text", 2, 64, 4, 2, 96, 100, attention_bias=True, head_dim=32),
    "tied phi": config("phi3", 2, 64, 4, 2, 96, 100, pad_token_id=0, **TIED),
    "mistral without head_dim": config("mistral", 2, 64, 4, 2, 96, 100, head_dim=None),
}  # fmt: skip


def oracle(fields: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the model that transformers builds from a configuration."""
    from transformers import AutoConfig, AutoModelForCausalLM

    given = dict(fields)
    built = AutoConfig.for_model(given.pop("model_type"), **given)
    return shapes_of(lambda: AutoModelForCausalLM.from_config(built))


@pytest.mark.parametrize("version", CONFIGS)
def test_the_inventory_is_that_of_transformers(version: str) -> None:
    base = VERSIONS[version]

    assert_inventory(base, {"model": oracle(CONFIGS[version])})
    assert base.parameters == FAMILIES[base.family].parameters[version]


@pytest.mark.parametrize("version", CONFIGS)
def test_a_configuration_alone_gives_the_known_version(version: str) -> None:
    base, known = base_from_config(CONFIGS[version], name="mine"), VERSIONS[version]

    assert (base.name, base.version, base.family, base.parameters) == ("mine", version, known.family, known.parameters)
    assert (base.sites, base.tables, base.vectors) == (known.sites, known.tables, known.vectors)
    assert base.fingerprint == ""


@pytest.mark.parametrize("kind", OTHERS)
def test_a_configuration_of_another_member_gives_the_inventory_of_transformers(kind: str) -> None:
    base = base_from_config(OTHERS[kind])

    assert base.version == base.name == CUSTOM
    assert_inventory(base, {"model": oracle(OTHERS[kind])})


def test_every_version_has_its_configuration_here() -> None:
    assert VERSIONS.keys() == CONFIGS.keys()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_size": None}, "'hidden_size' is 'None'"),
        ({"num_hidden_layers": 0}, "'num_hidden_layers' is '0', expected is a whole number from 1 to 1024"),
        ({"num_hidden_layers": 10**9}, "'num_hidden_layers'"),
        ({"vocab_size": "many"}, "'vocab_size' is 'many'"),
        ({"intermediate_size": True}, "'intermediate_size' is 'True'"),
        ({"num_attention_heads": 7}, "do not divide evenly"),
        ({"num_key_value_heads": 5}, "do not divide evenly"),
        ({"tie_word_embeddings": "yes"}, "expected is true or false"),
        ({"model_type": "gpt_neox"}, "'model_type' is 'gpt_neox', known are"),
        ({"model_type": ["llama"]}, "'model_type'"),
        ({"model_type": "qwen3_moe", "moe_intermediate_size": 8}, "'num_experts' is missing"),
        (
            {"model_type": "qwen3_moe", "num_experts": 2, "moe_intermediate_size": 8, "mlp_only_layers": "all"},
            "expected is a list",
        ),
        ({"model_type": "phi", "qk_layernorm": True}, "'qk_layernorm'"),
        (
            {"model_type": "qwen3_moe", "num_experts": 4096, "moe_intermediate_size": 8, "num_hidden_layers": 1024},
            "more than 500000",
        ),
    ],
)
def test_an_impossible_configuration_is_refused_by_field_and_file(change: dict[str, Any], said: str) -> None:
    broken = {**config("llama", 2, 64, 4, 2, 96, 100), **change}

    with pytest.raises(BadFile) as caught:
        base_from_config(broken, where="base/config.json")

    assert caught.value.reason == "bad-config"
    assert said in str(caught.value)
    assert str(caught.value).startswith("base/config.json: ")


def test_a_missing_field_is_named() -> None:
    broken = config("llama", 2, 64, 4, 2, 96, 100)
    del broken["intermediate_size"]

    with pytest.raises(BadFile, match="'intermediate_size' is missing"):
        base_from_config(broken)


@every_family
def test_no_two_modules_share_a_spelling(family: Any) -> None:
    assert_spellings_are_of_one_module(family)


def test_modules_inside_a_vision_language_model_are_found_by_both_of_their_names() -> None:
    family, base = FAMILIES["gemma"], VERSIONS["gemma-3-1b"]
    nested = {module.path: module.parts[0].site.path for module in family.namings["nested"](base)}
    headless = {module.path: module.parts[0].site.path for module in family.namings["headless"](base)}

    path = "model.layers.3.self_attn.q_proj"
    assert nested["model.language_model.layers.3.self_attn.q_proj"] == path
    assert nested["language_model.model.layers.3.self_attn.q_proj"] == path
    assert headless["layers.3.self_attn.q_proj"] == path
    assert headless["embed_tokens"] == "model.embed_tokens"


def test_experts_are_a_site_each_and_one_module_together() -> None:
    base = VERSIONS["qwen3-30b-a3b"]
    path = "model.layers.47.mlp.experts.gate_up_proj"
    stack = next(module for module in FAMILIES["qwen"].namings["own"](base) if module.path == path)

    assert stack.experts
    assert [part.site for part in stack.parts] == [Site("model", f"{path}[{number}]") for number in range(128)]
    assert str(base.sites[Site("model", f"{path}[127]")]) == str(stack.shape) == "1536x2048"
    assert inventory_shapes(base, "model")[path] == (128, 1536, 2048)


@every_family
def test_a_folder_is_recognised_by_its_model_type(family: Any, tmp_path: Path) -> None:
    version = family.versions()[0].version
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[version]))

    assert [name for name, other in FAMILIES.items() if other.recognises(tmp_path)] == [family.name]
    assert family.components(tmp_path) == {"model": tmp_path}


def test_mistral_and_llama_3_differ_in_the_token_table_and_the_head_alone() -> None:
    first, second = VERSIONS["mistral-7b"], VERSIONS["llama-3-8b"]

    assert {site.path for site in first.sites if first.sites[site] != second.sites[site]} == {"lm_head"}
    assert first.tables != second.tables
