"""Phi-1 and Phi-2, and Phi-3 and Phi-4, whose query, key and value lie in one weight, and gate and up in another."""

from __future__ import annotations

from lorax.inventories.decoder import Decoder
from lorax.inventories.decoder_config import Fields
from lorax.inventories.decoder_family import decoder_family

NAME = "phi"
MODEL_TYPES = ("phi", "phi3")

_ALL_LINEAR = frozenset({"q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2", "lm_head"})


def _phi(layers: int, hidden: int, keys: int, inner: int, vocab: int, *, tied: bool = False) -> Decoder:
    return Decoder(
        layers, hidden, hidden, keys, inner, vocab, tied=tied, biases=_ALL_LINEAR, norms=("input_layernorm",),
        norm_bias=True, final="final_layernorm", output="dense", plain=True,
    )  # fmt: skip


_DECODERS = {
    "phi-1.5": _phi(24, 2048, 2048, 8192, 51200),
    "phi-2": _phi(32, 2560, 2560, 10240, 51200),
    "phi-3-mini": Decoder(32, 3072, 3072, 3072, 8192, 32064, fused=True),
    "phi-3-medium": Decoder(40, 5120, 5120, 1280, 17920, 32064, fused=True),
    "phi-4": Decoder(40, 5120, 5120, 1280, 17920, 100352, fused=True),
}

_LABELS = {
    "phi-1.5": ("microsoft/phi-1_5", "microsoft/phi-1"),
    "phi-2": (),
    "phi-3-mini": (
        "microsoft/Phi-3-mini-4k-instruct", "microsoft/Phi-3-mini-128k-instruct", "microsoft/Phi-3.5-mini-instruct",
        "unsloth/Phi-3-mini-4k-instruct-v0",
    ),
    "phi-3-medium": ("microsoft/Phi-3-medium-4k-instruct", "microsoft/Phi-3-medium-128k-instruct"),
    "phi-4": ("microsoft/Phi-4-reasoning", "microsoft/Phi-4-reasoning-plus"),
}  # fmt: skip


def read_decoder(fields: Fields) -> Decoder:
    """Reads a configuration of one of MODEL_TYPES. Raises BadFile (bad-config)."""
    queries, keys, _ = fields.heads()
    hidden, inner, vocab = fields.number("hidden_size"), fields.number("intermediate_size"), fields.vocab()
    tied = fields.flag("tie_word_embeddings", default=False)
    if fields.config.get("model_type") == "phi3":
        return Decoder(fields.layers(), hidden, queries, keys, inner, vocab, tied=tied, fused=True)
    if fields.flag("qk_layernorm", default=False):
        raise fields.bad("field 'qk_layernorm' is true, a kind of Phi that is not known here")
    return _phi(fields.layers(), hidden, keys, inner, vocab, tied=tied)


FAMILY = decoder_family(
    NAME,
    summary="Phi-1 to Phi-4",
    model_types=MODEL_TYPES,
    decoders=_DECODERS,
    labels=_LABELS.__getitem__,
    parameters={
        "phi-1.5": 1_418_270_720,
        "phi-2": 2_779_683_840,
        "phi-3-mini": 3_821_079_552,
        "phi-3-medium": 13_960_238_080,
        "phi-4": 14_659_507_200,
    },
    # The layers are equal; the token table and the head differ.
    equal_architectures=(frozenset({"phi-3-medium", "phi-4"}),),
)
