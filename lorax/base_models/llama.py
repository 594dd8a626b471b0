"""Llama and what is built like it: TinyLlama, Mistral, and every folder whose config.json says llama or mistral."""

from __future__ import annotations

from lorax.inventories.decoder import Decoder
from lorax.inventories.decoder_config import Fields
from lorax.inventories.decoder_family import decoder_family

NAME = "llama"
MODEL_TYPES = ("llama", "mistral")

_ATTENTION = frozenset({"q_proj", "k_proj", "v_proj", "o_proj"})
_FEED_FORWARD = frozenset({"gate_proj", "up_proj", "down_proj"})

_DECODERS = {
    "tinyllama-1.1b": Decoder(22, 2048, 2048, 256, 5632, 32000),
    "llama-2-7b": Decoder(32, 4096, 4096, 4096, 11008, 32000),
    "llama-3-8b": Decoder(32, 4096, 4096, 1024, 14336, 128256),
    "llama-3.2-1b": Decoder(16, 2048, 2048, 512, 8192, 128256, tied=True),
    "llama-3.2-3b": Decoder(28, 3072, 3072, 1024, 8192, 128256, tied=True),
    "mistral-7b": Decoder(32, 4096, 4096, 1024, 14336, 32000),
    "mistral-7b-v0.3": Decoder(32, 4096, 4096, 1024, 14336, 32768),
}

_LABELS = {
    "tinyllama-1.1b": (
        "TinyLlama/TinyLlama-1.1B-Chat-v1.0", "TinyLlama/TinyLlama-1.1B-Chat-v0.6",
        "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T", "TinyLlama/TinyLlama_v1.1", "unsloth/tinyllama",
        "unsloth/tinyllama-chat",
    ),
    "llama-2-7b": (
        "meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-7b-chat-hf", "meta-llama/Llama-2-7b-chat",
        "lmsys/vicuna-7b-v1.5", "huggyllama/llama-7b", "unsloth/llama-2-7b-chat",
    ),
    "llama-3-8b": (
        "meta-llama/Meta-Llama-3-8B", "meta-llama/Meta-Llama-3-8B-Instruct", "meta-llama/Llama-3.1-8B",
        "meta-llama/Meta-Llama-3.1-8B", "meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Meta-Llama-3.1-8B-Instruct",
        "unsloth/llama-3-8b-Instruct", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
    ),
    "llama-3.2-1b": ("meta-llama/Llama-3.2-1B-Instruct", ),
    "llama-3.2-3b": ("meta-llama/Llama-3.2-3B-Instruct", ),
    "mistral-7b": (
        "mistralai/Mistral-7B-v0.1", "mistralai/Mistral-7B-v0.2", "mistralai/Mistral-7B-Instruct-v0.1",
        "mistralai/Mistral-7B-Instruct-v0.2", "HuggingFaceH4/zephyr-7b-beta", "HuggingFaceH4/zephyr-7b-alpha",
        "teknium/OpenHermes-2.5-Mistral-7B",
    ),
    "mistral-7b-v0.3": ("mistralai/Mistral-7B-Instruct-v0.3",),
}  # fmt: skip


def read_decoder(fields: Fields) -> Decoder:
    """Reads a configuration of one of MODEL_TYPES. Raises BadFile (bad-config)."""
    queries, keys, _ = fields.heads()
    biases = frozenset[str]()
    if fields.flag("attention_bias", default=False):
        biases |= _ATTENTION
    if fields.flag("mlp_bias", default=False):
        biases |= _FEED_FORWARD
    return Decoder(
        layers=fields.layers(),
        hidden=fields.number("hidden_size"),
        queries=queries,
        keys=keys,
        inner=fields.number("intermediate_size"),
        vocab=fields.vocab(),
        tied=fields.flag("tie_word_embeddings", default=False),
        biases=biases,
    )


FAMILY = decoder_family(
    NAME,
    summary="Llama, TinyLlama and Mistral",
    model_types=MODEL_TYPES,
    decoders=_DECODERS,
    labels=_LABELS.__getitem__,
    parameters={
        "tinyllama-1.1b": 1_100_048_384,
        "llama-2-7b": 6_738_415_616,
        "llama-3-8b": 8_030_261_248,
        "llama-3.2-1b": 1_235_814_400,
        "llama-3.2-3b": 3_212_749_824,
        "mistral-7b": 7_241_732_096,
        "mistral-7b-v0.3": 7_248_023_552,
    },
    # The layers are equal; only the token table, which adapters seldom patch, and the head differ.
    equal_architectures=(frozenset({"llama-3-8b", "mistral-7b", "mistral-7b-v0.3"}),),
)
