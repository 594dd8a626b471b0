"""Which language model an adapter was made for: sizes tell the architecture, only words the checkpoint."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.lorax.in_the_wild.twins import PEFT, Tensors, by_hand, lora, probe
from tests.lorax.in_the_wild.wild import LLMS, Wild, effect, site

ROOT = "base_model.model.model.layers"
SIZES = {
    "llama-3-8b": (32, 4096, 4096, 1024, 14336),
    "llama-2-7b": (32, 4096, 4096, 4096, 11008),
    "tinyllama-1.1b": (22, 2048, 2048, 256, 5632),
    "llama-3.2-1b": (16, 2048, 2048, 512, 8192),
    "qwen2.5-0.5b": (24, 896, 896, 128, 4864),
    "qwen2.5-7b": (28, 3584, 3584, 512, 18944),
    "qwen3-0.6b": (28, 1024, 2048, 1024, 3072),
    "qwen3-8b": (36, 4096, 4096, 1024, 12288),
}


def decoder(name: str, *, parts: tuple[str, ...] = ("q_proj", "v_proj"), layers: range | None = None) -> Tensors:
    """A file of peft on some projections of every layer."""
    depth, hidden, queries, keys, inner = SIZES[name]
    sizes = {
        "q_proj": ("self_attn", queries, hidden),
        "k_proj": ("self_attn", keys, hidden),
        "v_proj": ("self_attn", keys, hidden),
        "o_proj": ("self_attn", hidden, queries),
        "gate_proj": ("mlp", inner, hidden),
        "up_proj": ("mlp", inner, hidden),
        "down_proj": ("mlp", hidden, inner),
    }
    found: Tensors = {}
    for layer in layers or range(depth):
        for part in parts:
            around, out, inputs = sizes[part]
            found |= lora(f"{ROOT}.{layer}.{around}.{part}", out, inputs, 1, ends=PEFT, dtype=torch.bfloat16)
    return found


def config(name: str = "", **more: Any) -> dict[str, Any]:
    return {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "base_model_name_or_path": name, **more}


@pytest.mark.parametrize(
    "name", ["tinyllama-1.1b", "llama-2-7b", "llama-3.2-1b", "qwen2.5-0.5b", "qwen2.5-7b", "qwen3-0.6b", "qwen3-8b"]
)
def test_queries_and_values_of_all_layers_tell_the_architecture(name: str, wild: Wild) -> None:
    tensors = decoder(name)

    adapter = wild.read(tensors, LLMS, config=config("/home/someone/checkpoints/final"))

    assert (adapter.base.name, adapter.dialect) == (name, "peft")
    assert len(adapter.updates) == len(tensors) / 2
    path = "layers.3.self_attn.v_proj"
    vector = probe(SIZES[name][1])
    expected = by_hand(tensors, f"base_model.model.model.{path}", vector, scale=2.0, ends=PEFT)
    torch.testing.assert_close(effect(adapter.updates[site(f"model.{path}", "model")], vector), expected)
    assert not any("someone" in line for line in adapter.base.evidence)


def test_queries_and_values_do_not_tell_mistral_from_llama_3(wild: Wild) -> None:
    refusal = wild.refusal(decoder("llama-3-8b"), LLMS, config=config("out/checkpoint-500"))

    assert refusal.reason == "base-undecided"
    assert refusal.message.startswith("llama-3-8b, mistral-7b, mistral-7b-v0.3 share all shapes")
    assert "64 of 72 of qwen3-8b" in refusal.message


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("mistralai/Mistral-7B-v0.1", "mistral-7b"),
        ("mistralai/Mistral-7B-Instruct-v0.2", "mistral-7b"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b-v0.3"),
        ("meta-llama/Meta-Llama-3-8B", "llama-3-8b"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3-8b"),
        ("unsloth/Meta-Llama-3.1-8B-bnb-4bit", "llama-3-8b"),
        ("unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit", "llama-3-8b"),
        ("unsloth/meta-llama-3.1-8b-instruct-unsloth-bnb-4bit", "llama-3-8b"),
        ("unsloth/llama-3-8b-bnb-4bit", "llama-3-8b"),
        ("unsloth/llama-3-8b-Instruct-bnb-4bit", "llama-3-8b"),
        ("unsloth/mistral-7b-bnb-4bit", "mistral-7b"),
        ("unsloth/mistral-7b-v0.3-bnb-4bit", "mistral-7b-v0.3"),
        ("unsloth/mistral-7b-instruct-v0.3-bnb-4bit", "mistral-7b-v0.3"),
        ("TheBloke/Mistral-7B-Instruct-v0.2-AWQ", "mistral-7b"),
        ("somebody/Meta-Llama-3.1-8B-Instruct-GPTQ-INT4", "llama-3-8b"),
    ],
)
def test_the_name_in_the_configuration_decides_and_quantised_copies_are_the_plain_model(
    said: str, expected: str, wild: Wild
) -> None:
    adapter = wild.read(decoder("llama-3-8b"), LLMS, config=config(said))

    assert adapter.base.name == expected


def test_a_fine_tune_that_nobody_knows_stays_undecided_and_its_name_is_told(wild: Wild) -> None:
    refusal = wild.refusal(decoder("llama-3-8b"), LLMS, config=config("somebody/Best-Ever-8B"))

    assert refusal.reason == "base-undecided"
    assert "Best-Ever-8B" in refusal.message


@pytest.mark.parametrize(
    "said", ["unsloth/Qwen2.5-7B-Instruct-bnb-4bit", "unsloth/Qwen2.5-7B-unsloth-bnb-4bit", "Qwen/Qwen2.5-7B"]
)
def test_a_quantised_copy_of_qwen_is_no_contradiction(said: str, wild: Wild) -> None:
    assert wild.read(decoder("qwen2.5-7b"), LLMS, config=config(said)).base.name == "qwen2.5-7b"


def test_a_configuration_that_names_another_size_is_a_contradiction(wild: Wild) -> None:
    refusal = wild.refusal(decoder("qwen2.5-0.5b"), LLMS, config=config("Qwen/Qwen2.5-7B"))

    assert refusal.reason == "base-contradicted"
    assert "qwen2.5-7b" in refusal.message
    assert "qwen2.5-0.5b" in refusal.message


def test_an_adapter_of_some_layers_fits_deeper_models_too(wild: Wild) -> None:
    tensors = decoder("llama-3-8b", layers=range(4))

    found = wild.look(tensors, LLMS, config=config())

    assert {"llama-3-8b", "mistral-7b", "qwen3-8b"} <= set(found.rivals)
    assert found.family == "undecided"


def test_the_feed_forward_part_tells_what_queries_leave_open(wild: Wild) -> None:
    tensors = decoder("qwen3-8b", parts=("q_proj", "down_proj"), layers=range(4))

    assert wild.read(tensors, LLMS, config=config()).base.name == "qwen3-8b"


@pytest.mark.parametrize(
    "root",
    [
        "base_model.model.model.language_model.layers",
        "base_model.model.language_model.model.layers",
        "base_model.model.layers",
    ],
)
def test_decoders_inside_vision_models_and_without_a_head_are_the_same_layers(root: str, wild: Wild) -> None:
    tensors = {name.replace(ROOT, root): tensor for name, tensor in decoder("qwen2.5-7b").items()}

    adapter = wild.read(tensors, LLMS, config=config("Qwen/Qwen2.5-7B"))

    assert site("model.layers.27.self_attn.q_proj", "model") in adapter.updates


def test_phi_3_has_queries_keys_and_values_in_one(wild: Wild) -> None:
    tensors = lora(f"{ROOT}.31.self_attn.qkv_proj", 9216, 3072, ends=PEFT)
    tensors |= lora(f"{ROOT}.31.mlp.gate_up_proj", 16384, 3072, ends=PEFT)

    adapter = wild.read(tensors, LLMS, config=config("microsoft/Phi-3-mini-4k-instruct", r=2))

    assert adapter.base.name == "phi-3-mini"
    assert len(adapter.updates) == 2


def test_a_model_that_nobody_gave_is_refused_with_the_nearest(wild: Wild) -> None:
    tensors = lora(f"{ROOT}.0.self_attn.q_proj", 5120, 5120, ends=PEFT)

    refusal = wild.refusal(tensors, LLMS, config=config("meta-llama/Llama-2-13b-hf", r=2))

    assert refusal.reason == "base-unknown"
    assert "5120x5120" in refusal.message


def test_the_output_head_of_a_large_file_decides_where_the_layers_are_equal(wild: Wild) -> None:
    tensors = decoder("llama-3-8b", parts=("q_proj", "k_proj", "v_proj", "o_proj"))
    tensors |= lora("base_model.model.lm_head", 32768, 4096, 1, ends=PEFT)

    adapter = wild.read(tensors, LLMS, config=config())

    assert adapter.base.name == "mistral-7b-v0.3"
    assert len(tensors) > 200
