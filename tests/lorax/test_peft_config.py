from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from peft import LoraConfig
from peft.utils.other import get_pattern_key

from lorax.errors import BadFile, Unsupported
from lorax.peft_config import common_fields, load_json, parse_config, parse_json

MODULES = [
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
    "up_blocks.1.attentions.0.transformer_blocks.0.ff.net.2",
    "mid_block.attentions.0.proj_in",
]


def test_the_scale_is_alpha_over_rank() -> None:
    config = parse_config({"r": 8, "lora_alpha": 16}, where="x")

    assert config.scale(MODULES[0], 8) == 2.0
    assert config.scale(MODULES[0], 4) == 4.0


def test_rank_stabilised_is_alpha_over_the_root_of_the_rank() -> None:
    assert parse_config({"lora_alpha": 8, "use_rslora": True}, where="x").scale(MODULES[0], 16) == 2.0


def test_without_an_alpha_it_is_that_of_peft() -> None:
    assert parse_config({}, where="x").scale("a", 4) * 4 == LoraConfig().lora_alpha


@pytest.mark.parametrize(
    "pattern",
    ["to_q", "attn2.to_k", MODULES[2], r"^down_blocks.*to_q", r".*\.net\.\d", "attn[12].to_(q|k)", "o_q", "nothing"],
)
def test_patterns_match_the_modules_that_peft_matches(pattern: str) -> None:
    config = parse_config({"lora_alpha": 1, "alpha_pattern": {pattern: 7}}, where="x")

    ours = [config.scale(module, 1) == 7 for module in MODULES]

    assert ours == [get_pattern_key([pattern], module) == pattern for module in MODULES]


def test_the_first_pattern_that_matches_counts() -> None:
    config = parse_config({"alpha_pattern": {"to_k": 3, "attn2.to_k": 5}}, where="x")

    assert config.scale(MODULES[1], 1) == 3


@pytest.mark.parametrize(
    "pattern", ["(a+)+$", "(.*)*x", "(?:a|aa)+b", ".*.*.*.*x", "a" * 400, "(", "*", r"(a)\1", "[z-a]"]
)
def test_a_pattern_that_could_take_for_ever_or_is_none_is_refused(pattern: str) -> None:
    with pytest.raises(BadFile) as raised:
        parse_config({"alpha_pattern": {pattern + "(": 1} if pattern.startswith("aaa") else {pattern: 1}}, where="x")

    assert raised.value.reason == "bad-config"


def test_the_costliest_pattern_that_is_taken_is_quick() -> None:
    config = parse_config({"alpha_pattern": {".*a.*a.*b": 1}}, where="x")
    start = time.process_time()

    config.scale("a." * 100, 1)

    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "fields",
    [
        {"lora_alpha": "16"},
        {"lora_alpha": True},
        {"lora_alpha": None},
        {"lora_alpha": 1e300},
        {"alpha_pattern": ["to_q"]},
        {"alpha_pattern": {"to_q": "x"}},
        {"rank_pattern": {"to_q": 0}},
        {"r": 0},
        {"target_parameters": "mlp.experts.gate_up_proj"},
        {"target_parameters": [1]},
    ],
)
def test_nonsense_is_a_bad_configuration(fields: dict[str, object]) -> None:
    with pytest.raises(BadFile) as raised:
        parse_config(fields, where="thin/adapter_config.json")

    assert raised.value.reason == "bad-config"
    assert "thin/adapter_config.json" in str(raised.value)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"peft_type": "VERA"}, "VERA"),
        ({"peft_type": "PREFIX_TUNING"}, "learnt prompts"),
        ({"peft_type": "ADAPTION_PROMPT"}, "prompts with gates"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"init_lora_weights": "OLoRA"}, "OLoRA"),
        ({"alora_invocation_tokens": [1]}, "activated"),
        ({"layer_replication": [[0, 4]]}, "replicated"),
        ({"trainable_token_indices": [4]}, "trained tokens"),
        ({"kasa_config": {"beta": 1}}, "KaSA"),
        ({"arrow_config": {"top_k": 1}}, "Arrow"),
        ({"use_bdlora": {"nblocks": 2}}, "block-diagonal"),
        ({"bias": "lora_only"}, "biases"),
        ({"peft_type": "OFT", "use_cayley_neumann": False}, "Neumann"),
        ({"peft_type": "OFT", "use_cayley_neumann": True, "num_cayley_neumann_terms": 3}, "Neumann"),
    ],
)
def test_what_cannot_be_moved_is_named(fields: dict[str, object], named: str) -> None:
    with pytest.raises(Unsupported, match=named) as raised:
        parse_config(fields, where="x")

    assert raised.value.reason == "unsupported-algorithm"


@pytest.mark.parametrize(
    "fields",
    [
        {"use_dora": True},
        {"lora_bias": True},
        {"modules_to_save": ["classifier"]},
        {"target_parameters": ["mlp.experts.gate_up_proj"]},
        {"use_qalora": True},
    ],
)
def test_what_further_tensors_tell_is_taken(fields: dict[str, object]) -> None:
    assert parse_config(fields | {"lora_alpha": 4}, where="x").scale("a", 2) == 2.0


@pytest.mark.parametrize("kind", ["LOHA", "LOKR"])
def test_loha_and_lokr_call_alpha_by_its_name_and_divide_by_the_configured_rank(kind: str) -> None:
    config = parse_config(
        {"peft_type": kind, "alpha": 6, "r": 4, "lora_alpha": 99, "rank_pattern": {"to_k": 3}}, where="x"
    )

    assert config.scale("to_q", 2) == 3.0
    assert config.scale("to_q", 0) == 1.5
    assert config.scale("attn1.to_k", 0) == 2.0


@pytest.mark.parametrize("kind", ["IA3", "OFT", "BOFT"])
def test_methods_without_alpha_have_a_strength_of_one(kind: str) -> None:
    fields = {"peft_type": kind, "r": 0, "lora_alpha": 16, "use_cayley_neumann": True}

    assert parse_config(fields, where="x").scale("to_q", 4) == 1.0


def test_an_update_without_a_rank_has_a_strength_of_one() -> None:
    assert parse_config({"r": 4, "lora_alpha": 16}, where="x").scale("to_q", 0) == 1.0


def test_a_group_counts_only_with_qalora() -> None:
    assert parse_config({"qalora_group_size": 32}, where="x").group == 0
    assert parse_config({"qalora_group_size": 32, "use_qalora": True}, where="x").group == 32
    assert parse_config({"use_qalora": True}, where="x").group == LoraConfig().qalora_group_size


@pytest.mark.parametrize("start", [True, False, None, "gaussian", "eva", "orthogonal"])
def test_starts_that_leave_the_base_alone_are_taken(start: object) -> None:
    assert parse_config({"init_lora_weights": start, "lora_alpha": 4}, where="x").alpha == 4


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b'{"lora_alpha": NaN}', b"\xff\xfe{}", b"[" * 100_000, b'"text"'], ids=range(7)
)
def test_a_file_that_is_no_json_object_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "adapter_config.json"
    path.write_bytes(content)

    with pytest.raises(BadFile) as raised:
        load_json(path, limit_bytes=2**20, where="thin")

    assert raised.value.reason == "bad-config"


def test_a_missing_or_giant_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "giant.json").write_bytes(b" " * 2000)

    for name in ("giant.json", "missing.json"):
        with pytest.raises(BadFile, match=name):
            load_json(tmp_path / name, limit_bytes=1000, where="thin")


def test_fields_of_newer_versions_are_written_only_where_they_are_needed() -> None:
    plain = common_fields({"a": (2, 1.0)})

    assert plain.keys().isdisjoint({"use_dora", "lora_bias"})
    assert common_fields({"a": (2, 1.0)}, magnitudes=True, biases=True) == plain | {"use_dora": True, "lora_bias": True}


def test_what_is_written_reads_back_and_peft_takes_it() -> None:
    scales = {
        MODULES[0]: (8, 2.0),
        MODULES[1]: (8, 2.0),
        MODULES[2]: (4, 0.3),
        "text_model.encoder.layers.0.mlp.fc1": (8, 1),
    }

    fields = common_fields(scales) | {"base_model_name_or_path": "digits-v2"}
    config = parse_config(parse_json(json.dumps(fields), where="x"), where="x")
    official = LoraConfig(**{key: value for key, value in fields.items() if key != "peft_type"})

    assert (fields["r"], fields["lora_alpha"]) == (8, 16)
    assert config.base_model == "digits-v2"
    for module, (rank, scale) in scales.items():
        shorter = module.removeprefix("text_model.")
        assert config.scale(module, rank) == config.scale(shorter, rank) == pytest.approx(scale)
        pattern = get_pattern_key(list(official.rank_pattern), shorter)
        assert official.rank_pattern.get(pattern, official.r) == rank
