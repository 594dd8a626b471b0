"""Strangers are called by their names, and an algorithm with a file of its own is no stranger."""

from __future__ import annotations

import re

import pytest

from lorax.algorithms import ALGORITHMS
from lorax.foreign import FOREIGN, NOT_ADAPTERS, WHY, foreign_algorithm, no_adapter, why_refused


def test_every_stranger_has_a_name_and_a_reason() -> None:
    assert {name for _, name in FOREIGN} == WHY.keys()
    assert all(len(reason.split()) > 3 for reason in WHY.values())


@pytest.mark.parametrize(
    ("role", "method"),
    [
        ("vera_lambda_b", "VeRA"),
        ("randlora_lambda", "RandLoRA"),
        ("fourierft_spectrum", "FourierFT"),
        ("waveft_spectrum", "WaveFT"),
        ("shira_weight", "SHiRA"),
        ("miss_block", "MiSS or Bone"),
        ("road_theta", "RoAd"),
        ("lora_E", "AdaLoRA"),
        ("trainable_tokens_delta", "trained tokens"),
        ("set_weight", "a whole weight or shape that replaces the model's"),
        ("down_proj.bias", "bottleneck adapters"),
    ],
)
def test_a_method_is_known_by_its_roles(role: str, method: str) -> None:
    assert foreign_algorithm(role, f"x.{role}") == method
    assert why_refused(method)


def test_what_nobody_knows_has_no_name() -> None:
    assert foreign_algorithm("nobody_knows", "x.nobody_knows") == ""
    assert why_refused("nobody") == ""


def test_no_role_of_an_algorithm_is_a_stranger() -> None:
    own = frozenset().union(*(algorithm.required | algorithm.optional for algorithm in ALGORITHMS.values()))

    assert not [role for role in own if any(re.fullmatch(pattern, role) for pattern, _ in FOREIGN)]


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["emb_params"], "a textual inversion embedding"),
        (["clip_l", "clip_g"], "a textual inversion embedding"),
        (["prompt_embeddings"], "a prompt or prefix adapter"),
        (["base_model.prompt_encoder.default.embedding.weight"], "a prompt or prefix adapter"),
        (["model.diffusion_model.out.2.weight", "first_stage_model.x"], "a full checkpoint"),
        (["bert.encoder.layer.0.output.adapters.task.adapter_down.0.weight"], "bottleneck adapters"),
        (["control_model.input_blocks.0.0.weight", "lora_controlnet"], "a ControlNet"),
        (["lora_unet_x.lora_down.weight", "clip_l"], ""),
    ],
)
def test_a_file_that_is_no_adapter_is_known_by_all_of_its_names(names: list[str], what: str) -> None:
    assert no_adapter(names) == what


def test_every_pattern_is_a_regular_expression() -> None:
    assert all(re.compile(pattern) for pattern, _ in (*FOREIGN, *NOT_ADAPTERS))
