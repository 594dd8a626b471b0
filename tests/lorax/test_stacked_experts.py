"""A mixture of experts has the same sites and content whether its checkpoint keeps the experts apart or stacked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from lorax.adapter import Site
from lorax.checkpoint import open_checkpoint
from lorax.decoders import base_from_config
from lorax.weight_file import open_weight_file, write_weight_file

EXPERTS = "model.layers.1.mlp.experts"


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("mixture") / "apart"
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, num_experts=3, num_experts_per_tok=2, moe_intermediate_size=12,
        decoder_sparse_step=2, tie_word_embeddings=False,
    )  # fmt: skip
    model = Qwen3MoeForCausalLM(config)
    model.save_pretrained(folder)
    return folder, {name: tensor.detach() for name, tensor in model.state_dict().items()}


def test_a_checkpoint_with_experts_apart_has_the_sites_that_its_configuration_promises(
    mixture: tuple[Path, dict[str, Tensor]],
) -> None:
    folder, state = mixture
    assert f"{EXPERTS}.2.up_proj.weight" in open_weight_file(folder / "model.safetensors").tensors

    found = open_checkpoint(folder, name="apart")

    expected = base_from_config(json.loads((folder / "config.json").read_text()))
    assert found.base.sites == expected.sites
    assert found.base.parameters == expected.parameters
    for part in ("gate_up_proj", "down_proj"):
        for number in range(3):
            weight = found.weight(Site("model", f"{EXPERTS}.{part}[{number}]"))
            assert torch.equal(weight, state[f"{EXPERTS}.{part}"][number])


def test_stacked_experts_are_the_same_base(mixture: tuple[Path, dict[str, Tensor]], tmp_path: Path) -> None:
    folder, state = mixture
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    write_weight_file(tmp_path / "model.safetensors", state)

    found, expected = open_checkpoint(tmp_path, name="stacked"), open_checkpoint(folder, name="apart")

    assert found.base.sites == expected.base.sites
    assert found.base.fingerprint == expected.base.fingerprint
    site = Site("model", f"{EXPERTS}.gate_up_proj[2]")
    assert torch.equal(found.weight(site), expected.weight(site))
