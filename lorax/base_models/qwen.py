"""Qwen2, Qwen2.5, Qwen3, and Qwen3 with a mixture of experts."""

from __future__ import annotations

from lorax.inventories.decoder import Decoder
from lorax.inventories.decoder_config import Fields
from lorax.inventories.decoder_family import decoder_family

NAME = "qwen"
MODEL_TYPES = ("qwen2", "qwen3", "qwen3_moe")

_QKV = frozenset({"q_proj", "k_proj", "v_proj"})
_ENTRIES = 151936

_DECODERS = {
    "qwen2.5-0.5b": Decoder(24, 896, 896, 128, 4864, _ENTRIES, tied=True, biases=_QKV),
    "qwen2.5-1.5b": Decoder(28, 1536, 1536, 256, 8960, _ENTRIES, tied=True, biases=_QKV),
    "qwen2.5-3b": Decoder(36, 2048, 2048, 256, 11008, _ENTRIES, tied=True, biases=_QKV),
    "qwen2.5-7b": Decoder(28, 3584, 3584, 512, 18944, 152064, biases=_QKV),
    "qwen3-0.6b": Decoder(28, 1024, 2048, 1024, 3072, _ENTRIES, tied=True, head_norm=128),
    "qwen3-1.7b": Decoder(28, 2048, 2048, 1024, 6144, _ENTRIES, tied=True, head_norm=128),
    "qwen3-4b": Decoder(36, 2560, 4096, 1024, 9728, _ENTRIES, tied=True, head_norm=128),
    "qwen3-8b": Decoder(36, 4096, 4096, 1024, 12288, _ENTRIES, head_norm=128),
    "qwen3-30b-a3b": Decoder(48, 2048, 4096, 512, 6144, _ENTRIES, head_norm=128, experts=128, expert_inner=768),
}


def _labels(name: str) -> tuple[str, ...]:
    """The instruct and base models of a size, and Qwen2's where it is built alike."""
    kind, _, size = name.partition("-")
    if kind == "qwen3":
        return (f"Qwen/{name}-Base", f"unsloth/{name}", f"Qwen/{name}-Instruct-2507")
    also = {
        "0.5b": ("Qwen/Qwen2-0.5B", "Qwen/Qwen2-0.5B-Instruct", "Qwen/Qwen2.5-Coder-0.5B-Instruct"),
        "1.5b": (
            "Qwen/Qwen2-1.5B", "Qwen/Qwen2-1.5B-Instruct", "Qwen/Qwen2.5-Coder-1.5B", "Qwen/Qwen2.5-Math-1.5B",
            "Qwen/Qwen2.5-Coder-1.5B-Instruct", "Qwen/Qwen2.5-Math-1.5B-Instruct",
            "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
        ),
        "3b": ("Qwen/Qwen2.5-Coder-3B-Instruct",),
        "7b": (
            "Qwen/Qwen2-7B", "Qwen/Qwen2-7B-Instruct", "Qwen/Qwen2.5-Coder-7B", "Qwen/Qwen2.5-Coder-7B-Instruct",
            "Qwen/Qwen2.5-Math-7B", "Qwen/Qwen2.5-Math-7B-Instruct", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B",
        ),
    }  # fmt: skip
    return (f"unsloth/{name}", f"Qwen/{name}-Instruct", *also[size])


def read_decoder(fields: Fields) -> Decoder:
    """Reads a configuration of one of MODEL_TYPES. Raises BadFile (bad-config)."""
    model_type = fields.config.get("model_type")
    queries, keys, head = fields.heads()
    qwen2 = model_type == "qwen2"
    with_bias = qwen2 or fields.flag("attention_bias", default=False)
    mixture = model_type == "qwen3_moe"
    step = fields.number("decoder_sparse_step", default=1) if mixture else 1
    dense = fields.numbers("mlp_only_layers") if mixture else frozenset[int]()
    return Decoder(
        layers=fields.layers(),
        hidden=fields.number("hidden_size"),
        queries=queries,
        keys=keys,
        inner=fields.number("intermediate_size"),
        vocab=fields.vocab(),
        tied=fields.flag("tie_word_embeddings", default=False),
        biases=_QKV | (frozenset() if qwen2 else {"o_proj"}) if with_bias else frozenset(),
        head_norm=0 if qwen2 else head,
        experts=fields.experts("num_experts", "num_local_experts") if mixture else 0,
        expert_inner=fields.number("moe_intermediate_size") if mixture else 0,
        has_experts=lambda layer: layer not in dense and (layer + 1) % step == 0,
    )


FAMILY = decoder_family(
    NAME,
    summary="Qwen2, Qwen2.5 and Qwen3, mixtures of experts included",
    model_types=MODEL_TYPES,
    decoders=_DECODERS,
    labels=_labels,
    parameters={
        "qwen2.5-0.5b": 494_032_768,
        "qwen2.5-1.5b": 1_543_714_304,
        "qwen2.5-3b": 3_085_938_688,
        "qwen2.5-7b": 7_615_616_512,
        "qwen3-0.6b": 596_049_920,
        "qwen3-1.7b": 1_720_574_976,
        "qwen3-4b": 4_022_468_096,
        "qwen3-8b": 8_190_735_360,
        "qwen3-30b-a3b": 30_532_122_624,
    },
)
