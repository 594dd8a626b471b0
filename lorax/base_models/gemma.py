"""Gemma, Gemma 2, and the text models of Gemma 3."""

from __future__ import annotations

from lorax.inventories.decoder import Decoder
from lorax.inventories.decoder_config import Fields
from lorax.inventories.decoder_family import decoder_family

NAME = "gemma"
MODEL_TYPES = ("gemma", "gemma2", "gemma3_text")

_HEAD = 256
_ATTENTION = frozenset({"q_proj", "k_proj", "v_proj", "o_proj"})
_TWO_NORMS = ("input_layernorm", "post_attention_layernorm")
_FOUR_NORMS = (*_TWO_NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm")


def _gemma(generation: int, layers: int, hidden: int, queries: int, keys: int, inner: int) -> Decoder:
    return Decoder(
        layers, hidden, queries, keys, inner, vocab=262144 if generation == 3 else 256000, tied=True,
        norms=_TWO_NORMS if generation == 1 else _FOUR_NORMS, head_norm=_HEAD if generation == 3 else 0,
    )  # fmt: skip


_DECODERS = {
    "gemma-2b": _gemma(1, 18, 2048, 2048, 256, 16384),
    "gemma-7b": _gemma(1, 28, 3072, 4096, 4096, 24576),
    "gemma-2-2b": _gemma(2, 26, 2304, 2048, 1024, 9216),
    "gemma-2-9b": _gemma(2, 42, 3584, 4096, 2048, 14336),
    "gemma-3-270m": _gemma(3, 18, 640, 1024, 256, 2048),
    "gemma-3-1b": _gemma(3, 26, 1152, 1024, 256, 6912),
}

_LABELS = {
    "gemma-2b": ("google/gemma-2b-it", "google/gemma-1.1-2b-it", "google/codegemma-2b", "unsloth/gemma-1.1-2b-it"),
    "gemma-7b": ("google/gemma-7b-it", "google/gemma-1.1-7b-it", "google/codegemma-7b", "google/codegemma-7b-it"),
    "gemma-2-2b": ("google/gemma-2-2b-it", "google/gemma-2-2b-jpn-it"),
    "gemma-2-9b": ("google/gemma-2-9b-it",),
    "gemma-3-270m": ("google/gemma-3-270m-it",),
    "gemma-3-1b": ("google/gemma-3-1b-it", "google/gemma-3-1b-pt"),
}


def read_decoder(fields: Fields) -> Decoder:
    """Reads a configuration of one of MODEL_TYPES. Raises BadFile (bad-config)."""
    model_type = fields.config.get("model_type")
    # Heads of Gemma are 256 wide whatever the width of the model.
    fields = Fields({"head_dim": _HEAD, **fields.config}, fields.where)
    queries, keys, head = fields.heads()
    return Decoder(
        layers=fields.layers(),
        hidden=fields.number("hidden_size"),
        queries=queries,
        keys=keys,
        inner=fields.number("intermediate_size"),
        vocab=fields.vocab(),
        tied=fields.flag("tie_word_embeddings", default=True),
        biases=_ATTENTION if fields.flag("attention_bias", default=False) else frozenset(),
        norms=_TWO_NORMS if model_type == "gemma" else _FOUR_NORMS,
        head_norm=head if model_type == "gemma3_text" else 0,
    )


FAMILY = decoder_family(
    NAME,
    summary="Gemma, Gemma 2 and the text models of Gemma 3",
    model_types=MODEL_TYPES,
    decoders=_DECODERS,
    labels=_LABELS.__getitem__,
    parameters={
        "gemma-2b": 2_506_172_416,
        "gemma-7b": 8_537_680_896,
        "gemma-2-2b": 2_614_341_888,
        "gemma-2-9b": 9_241_705_984,
        "gemma-3-270m": 268_098_176,
        "gemma-3-1b": 999_885_952,
    },
)
