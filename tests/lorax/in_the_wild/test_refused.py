"""Files that look like adapters and cannot be moved: each is refused for what it is, by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.lorax.in_the_wild.twins import PEFT, Tensors, kohya, lora, noise
from tests.lorax.in_the_wild.wild import UNETS, Wild

Q = "base_model.model.model.layers.0.self_attn.q_proj"
LLM = ["tinyllama-1.1b"]
BASES = (*UNETS[:1], "sdxl", "flux1-dev", *LLM)


def q_proj() -> Tensors:
    return lora(Q, 2048, 2048, ends=PEFT)


FILES: dict[str, tuple[Tensors, str]] = {
    "a textual inversion": ({"emb_params": noise("e", 4, 768)}, "textual inversion"),
    "a textual inversion of SDXL": ({"clip_l": noise("l", 4, 768), "clip_g": noise("g", 4, 1280)}, "textual inversion"),
    "a textual inversion of diffusers": ({"<sks>": noise("e", 768)}, "textual inversion"),
    "a ControlNet-LoRA of Stability AI": (
        {
            "lora_controlnet": torch.tensor(1.0),
            "input_blocks.4.1.transformer_blocks.0.attn1.to_q.down": noise("d", 8, 640),
            "input_blocks.4.1.transformer_blocks.0.attn1.to_q.up": noise("u", 640, 8),
            "input_blocks.0.0.weight": noise("w", 320, 4, 3, 3),
            "input_hint_block.0.weight": noise("h", 16, 3, 3, 3),
        },
        "ControlNet",
    ),
    "a ControlNet": (
        {
            "control_model.input_blocks.0.0.weight": noise("w", 320, 4, 3, 3),
            "control_model.zero_convs.0.0.bias": noise("b", 320),
        },
        "ControlNet",
    ),
    "a whole checkpoint called a LoRA": (
        {
            "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight": noise("q", 320, 320),
            "first_stage_model.decoder.conv_in.weight": noise("c", 512, 4, 3, 3),
            "cond_stage_model.transformer.text_model.final_layer_norm.weight": noise("n", 768),
        },
        "full checkpoint",
    ),
    "a whole checkpoint of SDXL": (
        {
            "model.diffusion_model.out.0.bias": noise("o", 320),
            "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias": noise("n", 768),
            "first_stage_model.decoder.conv_in.weight": noise("c", 512, 4, 3, 3),
        },
        "full checkpoint",
    ),
    "a hypernetwork": (
        {
            "768.0.linear.0.weight": noise("a", 1536, 768),
            "768.0.linear.0.bias": noise("b", 1536),
            "768.1.linear.0.weight": noise("c", 1536, 768),
            "1280.0.linear.0.weight": noise("d", 2560, 1280),
        },
        "hypernetwork",
    ),
    "a whole U-Net of diffusers": (
        {"down_blocks.0.resnets.0.conv1.weight": noise("c", 320, 320, 3, 3), "conv_in.bias": noise("i", 320)},
        "full checkpoint",
    ),
    "a whole language model": (
        {"model.layers.0.self_attn.q_proj.weight": noise("q", 8, 8), "model.embed_tokens.weight": noise("e", 9, 8)},
        "full checkpoint",
    ),
    "prefix tuning": ({"prompt_encoder.embedding.weight": noise("p", 8, 4096)}, "prompt or prefix"),
    "prompt tuning": ({"prompt_embeddings": noise("p", 8, 2048)}, "prompt or prefix"),
    "GLoRA": (
        {
            f"lora_unet_mid_block_attentions_0_proj_in.{part}.weight": noise(part, 4, 4)
            for part in ("a1", "a2", "b1", "b2")
        },
        "glora",
    ),
    "T-LoRA": (
        {
            "lora_unet_mid_block_attentions_0_proj_in.q_layer.weight": noise("q", 4, 1280),
            "lora_unet_mid_block_attentions_0_proj_in.p_layer.weight": noise("p", 1280, 4),
            "lora_unet_mid_block_attentions_0_proj_in.lambda_layer": noise("l", 1, 4),
            "lora_unet_mid_block_attentions_0_proj_in.alpha": torch.tensor(4.0),
        },
        "t_lora",
    ),
}


@pytest.mark.parametrize("what", FILES)
def test_what_is_no_movable_adapter_is_refused_by_name(what: str, wild: Wild) -> None:
    tensors, name = FILES[what]

    refusal = wild.refusal(tensors, BASES)

    assert refusal.reason == "unsupported-algorithm"
    assert name.casefold() in refusal.message.casefold()


FOREIGN = {
    "VeRA": (
        {
            f"{Q}.vera_lambda_b": (2048,),
            f"{Q}.vera_lambda_d": (256,),
            "base_model.vera_A": (256, 2048),
            "base_model.vera_B": (2048, 256),
        },
        "VERA",
    ),
    "RandLoRA": ({f"{Q}.randlora_lambda": (8, 3), f"{Q}.randlora_gamma": (3, 2048)}, "RANDLORA"),
    "FourierFT": ({f"{Q}.fourierft_spectrum": (1000,)}, "FOURIERFT"),
    "WaveFT": ({f"{Q}.waveft_spectrum": (1000,)}, "WAVEFT"),
    "SHiRA": ({f"{Q}.shira_weight": (8192,)}, "SHIRA"),
    "MiSS": ({f"{Q}.miss_block": (8, 2048)}, "MISS"),
    "Bone": ({f"{Q}.bone_block": (8, 2048)}, "BONE"),
    "RoAd": ({f"{Q}.road_theta": (1024,), f"{Q}.road_alpha": (1024,)}, "ROAD"),
    "HRA": ({f"{Q}.hra_u": (2048, 8)}, "HRA"),
    "VB-LoRA": ({f"{Q}.vblora_logits_A": (4, 8, 2), "base_model.vblora_vector_bank": (90, 256)}, "VBLORA"),
    "AdaLoRA": ({f"{Q}.lora_A": (12, 2048), f"{Q}.lora_B": (2048, 12), f"{Q}.lora_E": (12, 1)}, "ADALORA"),
    "X-LoRA": (
        {
            f"{Q}.lora_A.weight": (2, 2048),
            f"{Q}.lora_B.weight": (2048, 2),
            "base_model.internal_xlora_classifier.last.weight": (4, 4),
        },
        "XLORA",
    ),
    "LLaMA-Adapter": (
        {
            f"{Q.replace('q_proj', 'adaption_prompt')}": (1, 10, 2048)[1:],
            f"{Q.replace('q_proj', 'adaption_gate')}": (1,),
        },
        "ADAPTION_PROMPT",
    ),
    "prefix tuning": ({"prompt_embeddings": (30, 4096)}, "PREFIX_TUNING"),
}


@pytest.mark.parametrize("with_config", [True, False])
@pytest.mark.parametrize("what", FOREIGN)
def test_other_methods_of_peft_are_refused_with_and_without_their_configuration(
    what: str, wild: Wild, *, with_config: bool
) -> None:
    shapes, kind = FOREIGN[what]
    tensors = {name: noise(name, *shape) for name, shape in shapes.items()}

    refusal = wild.refusal(tensors, LLM, config={"peft_type": kind, "r": 2} if with_config else None)

    assert refusal.reason == "unsupported-algorithm"


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "PiSSA": ({"init_lora_weights": "pissa"}, "pissa"),
    "PiSSA in few steps": ({"init_lora_weights": "pissa_niter_16"}, "pissa"),
    "OLoRA": ({"init_lora_weights": "olora"}, "olora"),
    "CorDA": ({"init_lora_weights": "corda"}, "corda"),
    "LoftQ": ({"init_lora_weights": "loftq"}, "loftq"),
    "LoRA-GA": ({"init_lora_weights": "lora_ga"}, "lora_ga"),
    "KaSA": ({"kasa_config": {"beta": 1}}, "KaSA"),
    "aLoRA": ({"alora_invocation_tokens": [1, 2, 3]}, "activated LoRA"),
    "layer replication": ({"layer_replication": [[0, 4], [2, 6]]}, "replicated"),
    "trained tokens": ({"trainable_token_indices": [1, 2]}, "trained tokens"),
    "bias of all layers": ({"bias": "all"}, "biases"),
}


@pytest.mark.parametrize("what", CONFIGS)
def test_a_lora_relative_to_something_else_than_the_base_is_refused(what: str, wild: Wild) -> None:
    more, name = CONFIGS[what]

    refusal = wild.refusal(q_proj(), LLM, config={"peft_type": "LORA", "r": 2, "lora_alpha": 2, **more})

    assert refusal.reason == "unsupported-algorithm"
    assert name in refusal.message


@pytest.mark.parametrize("start", [True, False, "gaussian", "eva", "orthogonal", "mica", None])
def test_starts_that_leave_the_base_alone_are_read(start: object, wild: Wild) -> None:
    adapter = wild.read(
        q_proj(), LLM, config={"peft_type": "LORA", "r": 2, "lora_alpha": 2, "init_lora_weights": start}
    )

    assert len(adapter.updates) == 1


def test_trained_tokens_beside_lora_are_refused_by_their_tensor_too(wild: Wild) -> None:
    tensors = q_proj() | {
        "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": noise("t", 2, 2048)
    }

    refusal = wild.refusal(tensors, LLM, config={"peft_type": "LORA", "r": 2, "lora_alpha": 2})

    assert refusal.reason == "unsupported-algorithm"
    assert "token" in refusal.message


def test_one_tensor_that_nobody_knows_refuses_the_file_and_is_named(wild: Wild) -> None:
    tensors = kohya("lora_unet_mid_block_attentions_0_proj_in", 1280, 1280)
    tensors["lora_unet_mid_block_attentions_0_proj_in.lora_sideways.weight"] = noise("s", 4, 4)

    refusal = wild.refusal(tensors, ["sd1.5"])

    assert refusal.reason == "unknown-tensor"
    assert "lora_sideways" in refusal.message


def test_a_module_that_the_base_has_not_refuses_the_file_although_a_hundred_others_fit(wild: Wild) -> None:
    tensors: Tensors = {}
    for block in ("down_blocks_1", "down_blocks_2", "up_blocks_1", "up_blocks_2"):
        width = 640 if block in {"down_blocks_1", "up_blocks_2"} else 1280
        for attention in range(2):
            for layer in ("attn1", "attn2"):
                for part in ("to_q", "to_out_0"):
                    name = f"lora_unet_{block}_attentions_{attention}_transformer_blocks_0_{layer}_{part}"
                    tensors |= kohya(name, width, width, 1)
    for number in range(12):
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            tensors |= kohya(f"lora_te_text_model_encoder_layers_{number}_self_attn_{part}", 768, 768, 1)
        tensors |= kohya(f"lora_te_text_model_encoder_layers_{number}_mlp_fc1", 3072, 768, 1)
        tensors |= kohya(f"lora_te_text_model_encoder_layers_{number}_mlp_fc2", 768, 3072, 1)
    assert len(tensors) / 3 > 100
    tensors |= kohya("lora_unet_nobody_knows_me", 4, 4, 1)

    refusal = wild.refusal(tensors, ["sd1.5"])

    assert refusal.reason == "unknown-tensor"
    assert "lora_unet_nobody_knows_me" in refusal.message


@pytest.mark.parametrize("lost", [".lora_up.weight", ".lora_down.weight"])
def test_half_a_pair_is_named(lost: str, wild: Wild) -> None:
    module = "lora_unet_mid_block_attentions_0_proj_in"
    tensors = kohya(module, 1280, 1280) | kohya("lora_unet_mid_block_attentions_0_proj_out", 1280, 1280)
    del tensors[module + lost]

    refusal = wild.refusal(tensors, ["sd1.5"])

    assert refusal.reason == "incomplete-pair"
    assert module in refusal.message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_file_that_is_all_nan_is_refused_with_a_count(value: float, wild: Wild) -> None:
    tensors = {name: torch.full_like(tensor, value) for name, tensor in q_proj().items()}

    refusal = wild.refusal(tensors, LLM, config={"peft_type": "LORA", "r": 2, "lora_alpha": 2})

    assert refusal.reason == "non-finite"
    assert "4096 of 4096" in refusal.message


def test_an_adapter_whose_up_factors_are_all_zero_is_refused(wild: Wild) -> None:
    tensors = q_proj()
    tensors[f"{Q}.lora_B.weight"].zero_()

    assert wild.refusal(tensors, LLM, config={"peft_type": "LORA", "r": 2, "lora_alpha": 2}).reason == "all-zero"


@pytest.mark.parametrize("name", ["style.ckpt", "style.pt", "adapter_model.bin", "embeddings/style.pth"])
def test_pickles_are_never_opened(name: str, wild: Wild) -> None:
    files = wild.files(q_proj(), name=name)
    found = wild.refusal_of(files, LLM)

    assert found.reason == "pickle"
