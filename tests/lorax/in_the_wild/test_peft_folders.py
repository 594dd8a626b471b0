"""Folders of peft as they are found: patterns, wrong configurations, whole tensors, experts, tables."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.lorax.in_the_wild.twins import PEFT, Tensors, by_hand, factors, lora, noise, probe
from tests.lorax.in_the_wild.wild import LLMS, Wild, effect, site

ROOT = "base_model.model.model"
TINY = ["tinyllama-1.1b"]
SIZES = {"q_proj": ("self_attn", 2048, 2048), "v_proj": ("self_attn", 256, 2048), "down_proj": ("mlp", 2048, 5632)}


def config(**more: Any) -> dict[str, Any]:
    return {"peft_type": "LORA", "r": 4, "lora_alpha": 8, **more}


def layer(number: int, rank: int = 4, *parts: str) -> Tensors:
    found: Tensors = {}
    for part in parts or SIZES:
        around, out, inputs = SIZES[part]
        found |= lora(f"{ROOT}.layers.{number}.{around}.{part}", out, inputs, rank, ends=PEFT)
    return found


def scales(wild: Wild, tensors: Tensors, **more: Any) -> dict[str, float]:
    found = wild.read(tensors, TINY, config=config(**more)).scales()
    return {name.removeprefix("model:model.layers."): scale for name, scale in found.items()}


def test_the_strength_is_alpha_over_rank_or_over_its_root(wild: Wild) -> None:
    assert set(scales(wild, layer(0)).values()) == {2.0}
    assert set(scales(wild, layer(0), use_rslora=True).values()) == {8 / math.sqrt(4)}
    assert set(scales(wild, layer(0, 8), use_rslora=True).values()) == {8 / math.sqrt(8)}


def test_without_fields_peft_means_an_alpha_of_eight(wild: Wild) -> None:
    adapter = wild.read(layer(0, 8), TINY, config={"peft_type": "LORA"})

    assert set(adapter.scales().values()) == {1.0}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("q_proj", {"0.self_attn.q_proj", "1.self_attn.q_proj", "11.self_attn.q_proj"}),
        ("model.layers.1.self_attn.q_proj", {"1.self_attn.q_proj"}),
        ("layers.1.self_attn.q_proj", {"1.self_attn.q_proj"}),
        ("1.self_attn.q_proj", {"1.self_attn.q_proj"}),
        ("^model.layers.1.self_attn.q_proj", {"1.self_attn.q_proj"}),
        (r"^model\.layers\.1\.self_attn\.q_proj", {"1.self_attn.q_proj"}),
        (r".*\.1\.self_attn.*", {"1.self_attn.q_proj", "1.self_attn.v_proj"}),
        (r"layers\.(0|11)\.mlp\.down_proj", {"0.mlp.down_proj", "11.mlp.down_proj"}),
        ("_proj", set()),
        ("proj", set()),
    ],
)
def test_a_pattern_of_alphas_is_matched_as_peft_matches_it(pattern: str, expected: set[str], wild: Wild) -> None:
    tensors = layer(0) | layer(1) | layer(11)

    found = scales(wild, tensors, alpha_pattern={pattern: 16})

    assert {name for name, scale in found.items() if scale == 4.0} == expected
    assert {scale for name, scale in found.items() if name not in expected} == {2.0}


def test_ranks_are_those_of_the_tensors_and_patterns_of_ranks_are_not_needed(wild: Wild) -> None:
    tensors = layer(0, 4, "q_proj") | layer(0, 16, "v_proj")

    found = scales(wild, tensors, rank_pattern={"v_proj": 16})

    assert found == {"0.self_attn.q_proj": 2.0, "0.self_attn.v_proj": 0.5}


def test_a_configuration_that_lies_about_rank_and_targets_is_overruled_by_the_tensors(wild: Wild) -> None:
    # A public gemma adapter says r 8 and seven targets, and holds r 16 on q and v.
    tensors = layer(0, 16, "q_proj", "v_proj")
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

    adapter = wild.read(tensors, TINY, config=config(r=8, lora_alpha=16, target_modules=targets))

    assert adapter.ranks() == (16,)
    assert set(adapter.scales().values()) == {1.0}
    assert len(adapter.updates) == 2


@pytest.mark.parametrize("flag", [True, False])
def test_fan_in_fan_out_changes_nothing_in_the_file(wild: Wild, *, flag: bool) -> None:
    tensors = layer(0, 4, "down_proj")
    module = f"{ROOT}.layers.0.mlp.down_proj"
    vector = probe(5632)

    adapter = wild.read(tensors, TINY, config=config(fan_in_fan_out=flag))

    found = effect(adapter.updates[site("model.layers.0.mlp.down_proj", "model")], vector)
    torch.testing.assert_close(found, by_hand(tensors, module, vector, scale=2.0, ends=PEFT))


def test_modules_to_save_are_carried_whole_and_apart(wild: Wild) -> None:
    saved = {
        "base_model.model.lm_head.weight": noise("h", 100, 2048),
        f"{ROOT}.embed_tokens.weight": noise("e", 100, 2048),
        f"{ROOT}.norm.weight": noise("n", 2048),
        "base_model.model.score.modules_to_save.default.weight": noise("s", 2, 2048),
    }

    adapter = wild.read(layer(0) | saved, TINY, config=config(modules_to_save=["lm_head", "embed_tokens", "score"]))

    assert len(adapter.updates) == 3
    assert len(adapter.saved) == 4
    assert torch.equal(adapter.saved["base_model.model.lm_head.weight"], saved["base_model.model.lm_head.weight"])
    assert "base_model.model.score.weight" in {name.replace("modules_to_save.default.", "") for name in adapter.saved}


def test_lora_of_the_token_table_is_transposed(wild: Wild) -> None:
    module = f"{ROOT}.embed_tokens"
    down, up = noise("a", 4, 32000), noise("b", 2048, 4)
    tensors = {f"{module}.lora_embedding_A": down, f"{module}.lora_embedding_B": up} | layer(0)

    adapter = wild.read(tensors, TINY, config=config())

    update = adapter.updates[site("model.embed_tokens", "model")]
    rows = update.dense()[[0, 7, 31999]]
    torch.testing.assert_close(rows, 2.0 * (up @ down[:, [0, 7, 31999]]).T, rtol=1e-4, atol=1e-4)


def test_lora_of_the_output_head_is_a_linear_layer(wild: Wild) -> None:
    tensors = lora("base_model.model.lm_head", 32000, 2048, 4, ends=PEFT)

    adapter = wild.read(tensors, TINY, config=config())

    assert set(adapter.updates) == {site("lm_head", "model")}


def test_a_grown_table_is_refused_with_both_sizes(wild: Wild) -> None:
    module = f"{ROOT}.embed_tokens"
    tensors = {f"{module}.lora_embedding_A": noise("a", 4, 32008), f"{module}.lora_embedding_B": noise("b", 2048, 4)}

    refusal = wild.refusal(tensors, TINY, config=config())

    assert "32008" in refusal.message
    assert "32000" in refusal.message


def test_the_bias_of_a_lora_is_times_the_scale(wild: Wild) -> None:
    module = f"{ROOT}.layers.0.self_attn.q_proj"
    tensors = lora(module, 896, 896, 4, ends=PEFT) | {f"{module}.lora_B.bias": noise("bias", 896)}

    adapter = wild.read(tensors, ["qwen2.5-0.5b"], config=config(lora_bias=True))

    found = adapter.vectors[site("model.layers.0.self_attn.q_proj.bias", "model")]
    torch.testing.assert_close(found, 2.0 * tensors[f"{module}.lora_B.bias"])


def test_the_bias_of_a_lora_on_a_layer_without_bias_is_refused(wild: Wild) -> None:
    module = f"{ROOT}.layers.0.self_attn.q_proj"
    tensors = layer(0, 4, "q_proj") | {f"{module}.lora_B.bias": noise("bias", 2048)}

    refusal = wild.refusal(tensors, TINY, config=config(lora_bias=True))

    assert refusal.reason == "unknown-tensor"
    assert "lora_B.bias" in refusal.message


EXPERTS, RANK, HIDDEN, INNER = 128, 1, 2048, 768


def moe(module: str, out: int, inputs: int) -> Tensors:
    return {
        f"{module}.lora_A.weight": noise(f"{module}a", EXPERTS * RANK, inputs),
        f"{module}.lora_B.weight": noise(f"{module}b", out, RANK * EXPERTS),
    }


def test_experts_are_in_order_in_the_down_factor_and_interleaved_in_the_up_factor(wild: Wild) -> None:
    # peft nests the LoRA of the first parameter inside that of the second: base_layer is gate_up_proj.
    module = f"{ROOT}.layers.5.mlp.experts"
    tensors = moe(module, HIDDEN, INNER) | moe(f"{module}.base_layer", 2 * INNER, HIDDEN)
    parameters = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]

    adapter = wild.read(
        tensors, ["qwen3-30b-a3b"], config=config(r=RANK, lora_alpha=3, target_parameters=parameters, target_modules=[])
    )

    assert len(adapter.updates) == 2 * EXPERTS
    assert set(adapter.scales().values()) == {3.0}
    for expert in (0, 1, 77, 127):
        for name, parameter, inputs in ((module, "down_proj", INNER), (f"{module}.base_layer", "gate_up_proj", HIDDEN)):
            down = tensors[f"{name}.lora_A.weight"][expert * RANK : (expert + 1) * RANK]
            up = tensors[f"{name}.lora_B.weight"].reshape(-1, RANK, EXPERTS)[:, :, expert]
            vector = probe(inputs)
            found = effect(adapter.updates[site(f"model.layers.5.mlp.experts.{parameter}[{expert}]", "model")], vector)
            torch.testing.assert_close(found, 3.0 * (up @ (down @ vector)))


def test_experts_of_rank_two_are_rank_major(wild: Wild) -> None:
    module = f"{ROOT}.layers.5.mlp.experts"
    down, up = noise("a", EXPERTS * 2, INNER), noise("b", HIDDEN, 2 * EXPERTS)
    tensors = {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}

    adapter = wild.read(
        tensors, ["qwen3-30b-a3b"], config=config(r=2, lora_alpha=2, target_parameters=["mlp.experts.down_proj"])
    )

    vector = probe(INNER)
    # Column r * experts + e of the up factor belongs to expert e.
    expected: Tensor = sum((up[:, r * EXPERTS + 9] * (down[9 * 2 + r] @ vector) for r in range(2)), torch.zeros(HIDDEN))
    found = effect(adapter.updates[site("model.layers.5.mlp.experts.down_proj[9]", "model")], vector)
    torch.testing.assert_close(found, expected)


def test_qa_lora_pools_groups_of_inputs(wild: Wild) -> None:
    module = f"{ROOT}.layers.0.self_attn.q_proj"
    down, up = noise("a", 4, 2048 // 16), noise("b", 2048, 4)
    tensors = {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}
    vector = probe(2048)

    adapter = wild.read(tensors, TINY, config=config(use_qalora=True, qalora_group_size=16))

    # peft averages every group and multiplies by the number of groups ... per group size.
    pooled = vector.reshape(128, 16).mean(dim=1) * (2048 / 16)
    found = effect(adapter.updates[site("model.layers.0.self_attn.q_proj", "model")], vector)
    torch.testing.assert_close(found, 2.0 * (up @ (down @ pooled)), rtol=1e-3, atol=1e-3)


def test_ia3_of_peft_multiplies_outputs_of_keys_and_inputs_of_the_feed_forward_part(wild: Wild) -> None:
    value, forward = f"{ROOT}.layers.0.self_attn.v_proj", f"{ROOT}.layers.0.mlp.down_proj"
    tensors = {f"{value}.ia3_l": noise("v", 256, 1), f"{forward}.ia3_l": noise("f", 1, 5632)}

    adapter = wild.read(
        tensors, TINY, config={"peft_type": "IA3", "feedforward_modules": ["down_proj"], "target_modules": ["v_proj"]}
    )

    weights = {"self_attn.v_proj": noise("w", 256, 2048), "mlp.down_proj": noise("x", 2048, 5632)}
    for name, weight in weights.items():
        numbers = tensors[f"{ROOT}.layers.0.{name}.ia3_l"]
        found = adapter.updates[site(f"model.layers.0.{name}", "model")].dense(weight)
        torch.testing.assert_close(found, weight * numbers - weight)


@pytest.mark.parametrize("whole", [True, False])
def test_lokr_of_peft_is_times_alpha_over_rank_even_where_both_factors_are_whole(wild: Wild, *, whole: bool) -> None:
    module = f"{ROOT}.layers.0.self_attn.q_proj"
    first = noise("w1", 32, 32)
    tensors = {f"{module}.lokr_w1": first}
    if whole:
        tensors[f"{module}.lokr_w2"] = second = noise("w2", 64, 64)
    else:
        tensors[f"{module}.lokr_w2_a"], tensors[f"{module}.lokr_w2_b"] = noise("a", 64, 4), noise("b", 4, 64)
        second = tensors[f"{module}.lokr_w2_a"] @ tensors[f"{module}.lokr_w2_b"]

    adapter = wild.read(tensors, TINY, config={"peft_type": "LOKR", "r": 4, "alpha": 6})

    found = adapter.updates[site("model.layers.0.self_attn.q_proj", "model")].dense()
    torch.testing.assert_close(found, 1.5 * torch.kron(first, second), rtol=1e-4, atol=1e-4)


def test_a_folder_without_its_configuration_is_refused_for_that(wild: Wild) -> None:
    refusal = wild.refusal(layer(0), TINY)

    assert refusal.reason == "bad-config"
    assert "adapter_config.json" in refusal.message


@pytest.mark.parametrize(
    "broken",
    [
        {"r": 0},
        {"r": "four"},
        {"lora_alpha": None},
        {"alpha_pattern": ["q_proj"]},
        {"alpha_pattern": {"(a+)+$": 4}},
        {"rank_pattern": {"q_proj": 0}},
    ],
)
def test_nonsense_in_a_configuration_is_refused_and_told(broken: dict[str, Any], wild: Wild) -> None:
    refusal = wild.refusal(layer(0), TINY, config=config(**broken))

    assert refusal.reason == "bad-config"
    assert "adapter_config.json" in refusal.message


def test_fields_that_nobody_knows_yet_are_no_reason_to_refuse(wild: Wild) -> None:
    adapter = wild.read(layer(0), TINY, config=config(peft_version="0.99.0", corda_config=None, new_field={"a": 1}))

    assert len(adapter.updates) == 3


def test_the_second_text_encoder_of_sdxl_in_a_folder_of_its_own_is_told_by_its_width(wild: Wild) -> None:
    tensors = lora("base_model.model.text_model.encoder.layers.30.self_attn.q_proj", 1280, 1280, 4, ends=PEFT)

    adapter = wild.read(tensors, ["sdxl", "sd1.5"], config=config())

    assert set(adapter.updates) == {site("text_model.encoder.layers.30.self_attn.q_proj", "text_encoder_2")}


def test_a_unet_in_a_folder_of_peft(wild: Wild) -> None:
    path = "down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_k"
    tensors = lora(f"base_model.model.{path}", 1280, 2048, 4, ends=PEFT)
    up, _ = factors(tensors, f"base_model.model.{path}", PEFT)

    adapter = wild.read(tensors, ["sdxl", "sd1.5", *LLMS[:2]], config=config())

    assert adapter.base.name == "sdxl"
    assert torch.equal(adapter.low_rank()[site(path)].up, up)


def test_a_copy_of_the_base_that_peft_saves_beside_lora_of_a_table_is_left_out(wild: Wild) -> None:
    module = f"{ROOT}.embed_tokens"
    tensors = {
        f"{module}.lora_embedding_A": noise("a", 4, 32000),
        f"{module}.lora_embedding_B": noise("b", 2048, 4),
        f"{module}.base_layer.weight": noise("w", 100, 2048),
    }

    adapter = wild.read(tensors, TINY, config=config())

    assert [name for name, _ in adapter.unmappable] == [f"{module}.base_layer.weight"]
    assert len(adapter.updates) == 1
