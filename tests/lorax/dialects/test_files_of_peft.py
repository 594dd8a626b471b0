"""What peft saves means the same here, and what is written here does the same in peft."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lorax.adapter import LowRank, Site
from lorax.base_model import BaseModel
from lorax.decoders import base_from_config
from lorax.errors import Refused
from lorax.write import write_adapter
from tests.lorax.dialects.tiny_models import assert_same_changes, read, train_one_step, weights_of

pytestmark = pytest.mark.slow

TARGETS = ["q_proj", "v_proj", "down_proj"]
SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "tie_word_embeddings": False,
}
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


@pytest.fixture(autouse=True)
def _third_party_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(peft|transformers|huggingface_hub|torch)\b")
        yield


def language_model(*, experts: bool = False, biases: bool = False) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    if experts:
        more = {"moe_intermediate_size": 12, "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 4}
        return Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES, **more))
    model = LlamaForCausalLM(LlamaConfig(**SIZES, attention_bias=biases, mlp_bias=biases))
    return model.eval()


def base_of(model: Any) -> BaseModel:
    return base_from_config(model.config.to_dict(), name="tiny")


def trained(model: Any, config: Any) -> Any:
    from peft import get_peft_model

    adapted = get_peft_model(model, config)
    tokens = torch.arange(16).reshape(2, 8)
    train_one_step(adapted, adapted(input_ids=tokens, labels=tokens).loss)
    return adapted


def changes(adapted: Any, before: Mapping[str, Tensor]) -> dict[Site, Tensor]:
    """Returns how merging changes each weight, stacked experts one by one."""
    after = adapted.merge_and_unload().state_dict()
    found: dict[Site, Tensor] = {}
    for name, old in before.items():
        new = after[name]
        if torch.equal(old, new):
            continue
        if ".experts." in name:
            found |= {Site("model", f"{name}[{number}]"): new[number] - old[number] for number in range(len(old))}
        elif old.dim() > 1:
            found[Site("model", name.removesuffix(".weight"))] = new - old
    return found


def lora(**fields: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": TARGETS, **fields})


def other(kind: str, **fields: Any) -> Any:
    import peft

    return getattr(peft, kind)(**{"target_modules": TARGETS, **fields})


CONFIGS: dict[str, Callable[[], Any]] = {
    "LoRA": lora,
    "rank-stabilised": partial(lora, use_rslora=True),
    "patterns": partial(lora, rank_pattern={"q_proj": 2}, alpha_pattern={"^model.layers.1.*v_proj": 3}),
    "DoRA": partial(lora, use_dora=True),
    "with an embedding": partial(lora, target_modules=["embed_tokens", "q_proj"]),
    "LoHa": partial(other, "LoHaConfig", r=4, alpha=6),
    "LoKr, one factor low-rank": partial(other, "LoKrConfig", r=1, alpha=6),
    "LoKr, whole factors": partial(other, "LoKrConfig", r=16, alpha=6),
    "LoKr, both low-rank": partial(other, "LoKrConfig", r=1, alpha=6, decompose_both=True, decompose_factor=4),
    "IA3": partial(other, "IA3Config", feedforward_modules=["down_proj"]),
    "OFT": partial(other, "OFTConfig", r=0, oft_block_size=4, use_cayley_neumann=True),
    "BOFT": partial(other, "BOFTConfig", boft_block_size=4, boft_n_butterfly_factor=1),
    "BOFT with two factors": partial(
        other, "BOFTConfig", boft_block_size=4, boft_n_butterfly_factor=2, target_modules=["q_proj"]
    ),
}


@pytest.mark.parametrize("make", CONFIGS.values(), ids=CONFIGS)
def test_what_peft_saves_means_the_same_here(make: Callable[[], Any], tmp_path: Path) -> None:
    model = language_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapted = trained(model, make())
    adapted.save_pretrained(str(tmp_path))

    adapter = read(tmp_path, base_of(model))

    assert adapter.dialect == "peft"
    assert_same_changes(adapter, changes(adapted, before), weights_of("model", before))


@pytest.mark.parametrize("parameters", [EXPERTS, EXPERTS[1:], EXPERTS[:1]], ids=["both", "down", "gate and up"])
def test_stacked_experts_of_peft_mean_the_same_here(parameters: list[str], tmp_path: Path) -> None:
    model = language_model(experts=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapted = trained(model, lora(r=3, target_modules=["q_proj"], target_parameters=parameters))
    adapted.save_pretrained(str(tmp_path))

    adapter = read(tmp_path, base_of(model))

    assert_same_changes(adapter, changes(adapted, before))


def test_a_bias_beside_the_factors_is_a_change_of_the_bias(tmp_path: Path) -> None:
    model = language_model(biases=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapted = trained(model, lora(lora_bias=True))
    adapted.save_pretrained(str(tmp_path))

    adapter = read(tmp_path, base_of(model))

    after = adapted.merge_and_unload().state_dict()
    assert len(adapter.vectors) == 2 * len(TARGETS)
    for site, vector in adapter.vectors.items():
        assert torch.allclose(vector, after[site.path] - before[site.path], atol=1e-6)


def test_parts_that_are_saved_whole_are_carried_apart(tmp_path: Path) -> None:
    model = language_model()
    adapted = trained(model, lora(modules_to_save=["lm_head"]))
    adapted.save_pretrained(str(tmp_path))

    adapter = read(tmp_path, base_of(model))

    assert list(adapter.saved) == ["base_model.model.lm_head.weight"]
    head = adapted.merge_and_unload().state_dict()["lm_head.weight"]
    assert torch.equal(adapter.saved["base_model.model.lm_head.weight"], head)


def test_the_copy_of_an_embedding_is_left_out_with_a_reason(tmp_path: Path) -> None:
    model = language_model()
    trained(model, lora(target_modules=["embed_tokens", "q_proj"])).save_pretrained(str(tmp_path))

    [(name, reason)] = read(tmp_path, base_of(model)).unmappable

    assert name == "base_model.model.model.embed_tokens.base_layer.weight"
    assert "copy" in reason


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "VeRA": (partial(other, "VeraConfig", r=3, target_modules=["q_proj"]), "VeRA|VERA"),
    "activated LoRA": (partial(lora, alora_invocation_tokens=[1]), "activated"),
    "trained tokens": (partial(lora, trainable_token_indices=[1, 2]), "trained tokens"),
    "PiSSA": (partial(lora, init_lora_weights="pissa"), "pissa"),
    "an exact Cayley transform": (partial(other, "OFTConfig", r=0, oft_block_size=4, use_cayley_neumann=False), "Neum"),
    "RandLoRA": (partial(other, "RandLoraConfig", r=4), "RandLoRA|RANDLORA"),
    "FourierFT": (partial(other, "FourierFTConfig", n_frequency=10), "FourierFT|FOURIERFT"),
    "trained biases": (partial(lora, bias="lora_only"), "biases"),
}


@pytest.mark.parametrize(("make", "named"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_moved_is_refused_by_name(make: Callable[[], Any], named: str, tmp_path: Path) -> None:
    model = language_model(biases=True)
    trained(model, make()).save_pretrained(str(tmp_path))

    with pytest.raises(Refused, match=named) as raised:
        read(tmp_path, base_of(model))

    assert raised.value.reason == "unsupported-algorithm"


WRITTEN: dict[str, tuple[Callable[[], Any], bool]] = {
    "LoRA": (partial(lora, rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 3}), False),
    "DoRA": (partial(lora, use_dora=True), False),
    "with an embedding": (partial(lora, target_modules=["embed_tokens", "q_proj"]), False),
    "with biases": (partial(lora, lora_bias=True), False),
    "with a part saved whole": (partial(lora, modules_to_save=["lm_head"]), False),
    "experts": (partial(lora, r=3, target_modules=["q_proj"], target_parameters=EXPERTS), True),
}


@pytest.mark.parametrize(("make", "experts"), WRITTEN.values(), ids=WRITTEN)
def test_what_is_written_again_does_the_same_in_peft(
    make: Callable[[], Any],
    experts: bool,  # noqa: FBT001
    tmp_path: Path,
) -> None:
    from peft import PeftModel

    model = language_model(experts=experts, biases=not experts)
    base = base_of(model)
    adapted = trained(model, make())
    adapted.save_pretrained(str(tmp_path / "theirs"))
    adapter = read(tmp_path / "theirs", base)

    write_adapter(adapter, tmp_path / "ours", dialect="peft", base=base, stem="bold", metadata={})
    with warnings.catch_warnings(action="error"):  # peft warns of keys that it misses or does not expect
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        again = PeftModel.from_pretrained(language_model(experts=experts, biases=not experts), str(tmp_path / "ours"))

    tokens = torch.arange(8).reshape(1, 8)
    adapted.eval()
    again.eval()
    assert torch.allclose(adapted(tokens).logits, again(tokens).logits, atol=1e-5)
    assert not torch.allclose(
        adapted(tokens).logits, language_model(experts=experts, biases=not experts)(tokens).logits
    )


def test_a_low_rank_update_of_quantised_groups_is_the_one_that_peft_applies(tmp_path: Path) -> None:
    from peft.tuners.lora.variants import QALoraLinearVariant

    model = language_model()
    adapted = trained(model, lora(target_modules=["q_proj"]))
    layer = adapted.base_model.model.model.layers[0].self_attn.q_proj
    path = tmp_path / "adapter"
    group = 4
    for module in adapted.modules():
        if hasattr(module, "lora_A") and "default" in module.lora_A:
            module.lora_A["default"] = nn.Linear(16 // group, 4, bias=False)
            module.qalora_group_size = {"default": group}
    adapted.peft_config["default"].use_qalora = True
    adapted.peft_config["default"].qalora_group_size = group
    adapted.save_pretrained(str(path))

    adapter = read(path, base_of(model))

    inputs = torch.randn(3, 16)
    wanted = QALoraLinearVariant.forward(layer, "default", inputs, torch.zeros(3, 16))
    update = adapter.updates[Site("model", "model.layers.0.self_attn.q_proj")]
    assert torch.allclose(inputs @ update.dense().mT, wanted, atol=1e-5)


def test_dora_of_some_modules_alone_cannot_be_written(tmp_path: Path) -> None:
    model = language_model()
    trained(model, lora(use_dora=True)).save_pretrained(str(tmp_path / "theirs"))
    adapter = read(tmp_path / "theirs", base_of(model))
    site = Site("model", "model.layers.0.self_attn.k_proj")
    mixed = replace(adapter, updates={**adapter.updates, site: LowRank(torch.ones(8, 1), torch.ones(1, 16), 1.0)})

    with pytest.raises(Refused, match="DoRA for all modules or for none") as raised:
        write_adapter(mixed, tmp_path / "ours", dialect="peft", base=base_of(model), stem="bold", metadata={})

    assert raised.value.reason == "unwritable"
