"""Names of wrappers around a model that leak into the names of its adapter's tensors."""

from __future__ import annotations

import pytest

from tests.lorax.in_the_wild.twins import noise
from tests.lorax.in_the_wild.wild import Wild, site

PATH = "down_blocks.1.attentions.0.transformer_blocks.0.attn1"
SD = ["SD 1.5"]


@pytest.mark.parametrize(
    "wrap",
    [
        "base_model.model.{}.lora_A.default.weight",
        "base_model.model._orig_mod.{}.lora_A.weight",
        "base_model.model.module.{}.lora_A.weight",
        "module.base_model.model.{}.lora_A.weight",
        "_orig_mod.base_model.model.{}.lora_A.weight",
        "base_model.model.{}.base_layer.lora_A.weight",
    ],
)
def test_wrappers_that_leak_into_names_of_peft_are_looked_through(wrap: str, wild: Wild) -> None:
    path = "model.layers.3.self_attn.q_proj"
    down = wrap.format(path)
    tensors = {down: noise("a", 2, 2048), down.replace("lora_A", "lora_B"): noise("b", 2048, 2)}

    adapter = wild.read(tensors, ["tinyllama-1.1b"], config={"peft_type": "LORA", "r": 2, "lora_alpha": 2})

    assert set(adapter.updates) == {site(path, "model")}


@pytest.mark.parametrize(
    "wrap",
    [
        "unet.{}.lora_A.default.weight",
        "unet.{}.lora_A.default_0.weight",
        "{}.lora_A.weight",
        "unet._orig_mod.{}.lora_A.weight",
        "unet.base_model.model.{}.lora_A.weight",
        "unet.{}.base_layer.lora_A.weight",
        "module.unet.{}.lora_A.weight",
    ],
)
def test_wrappers_that_leak_into_names_of_diffusers_are_looked_through(wrap: str, wild: Wild) -> None:
    down = wrap.format(f"{PATH}.to_q")
    tensors = {down: noise("a", 2, 640), down.replace("lora_A", "lora_B"): noise("b", 640, 2)}

    adapter = wild.read(tensors, ["sd1.5", "sd2.1"], labels=SD)

    assert set(adapter.updates) == {site(f"{PATH}.to_q")}
