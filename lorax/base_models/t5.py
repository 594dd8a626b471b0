"""T5 1.1 and Flan-T5 on their own: encoder and decoder, or the encoder alone, in the names of transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from lorax.base_model import BaseModel, Family
from lorax.inventories.known import as_it_is, holds_model_type, known_base, whole_folder
from lorax.inventories.text_encoders import T5_TABLES, t5_encoder
from lorax.inventories.translation import renamed
from lorax.inventory import Parameter, Parameters, linear, table
from lorax.naming import own_names

NAME = "t5"
_BUCKETS, _HEAD, _VOCAB = 32, 64, 32128


@dataclass(frozen=True, slots=True)
class _T5:
    """Describes a T5ForConditionalGeneration of T5 1.1: gated feed-forward parts and a head of its own."""

    layers: int
    width: int
    heads: int
    inner: int

    def encoder(self) -> Parameters:
        """Lists the parameters of the encoder and of the token table."""
        return t5_encoder(self.layers, self.width, _HEAD * self.heads, self.inner, vocab=_VOCAB)

    def parameters(self) -> Parameters:
        """Lists all parameters."""
        yield from self.encoder()
        for number in range(self.layers):
            yield from self._decoder_block(f"decoder.block.{number}.layer", first=number == 0)
        yield Parameter("decoder.final_layer_norm.weight", (self.width,))
        yield from linear("lm_head", _VOCAB, self.width, bias=False)

    def _decoder_block(self, path: str, *, first: bool) -> Parameters:
        for number, attention in enumerate(("SelfAttention", "EncDecAttention")):
            for part in "qkv":
                yield from linear(f"{path}.{number}.{attention}.{part}", _HEAD * self.heads, self.width, bias=False)
            yield from linear(f"{path}.{number}.{attention}.o", self.width, _HEAD * self.heads, bias=False)
            yield Parameter(f"{path}.{number}.layer_norm.weight", (self.width,))
        if first:
            yield from table(f"{path}.0.SelfAttention.relative_attention_bias", _BUCKETS, self.heads)
        for part in ("wi_0", "wi_1"):
            yield from linear(f"{path}.2.DenseReluDense.{part}", self.inner, self.width, bias=False)
        yield from linear(f"{path}.2.DenseReluDense.wo", self.width, self.inner, bias=False)
        yield Parameter(f"{path}.2.layer_norm.weight", (self.width,))


_MODELS: dict[str, Callable[[], Parameters]] = {
    "flan-t5-small": _T5(8, 512, 6, 1024).parameters,
    "flan-t5-base": _T5(12, 768, 12, 2048).parameters,
    "flan-t5-large": _T5(24, 1024, 16, 2816).parameters,
    "flan-t5-xl": _T5(24, 2048, 32, 5120).parameters,
    "flan-t5-xxl": _T5(24, 4096, 64, 10240).parameters,
    "t5-v1.1-xxl-encoder": _T5(24, 4096, 64, 10240).encoder,
}


def _labels(name: str) -> tuple[str, ...]:
    if name.endswith("-encoder"):
        return ("city96/t5-v1_1-xxl-encoder-bf16", "t5xxl_fp16", "t5xxl_fp8_e4m3fn")
    size = name.rpartition("-")[2]
    return (f"google/{name}", f"google/t5-v1_1-{size}", *(("philschmid/flan-t5-xxl-sharded-fp16",) * (size == "xxl")))


@cache
def _versions() -> tuple[BaseModel, ...]:
    return tuple(
        known_base(name, family=NAME, labels=_labels(name), components={"model": parameters()})
        for name, parameters in _MODELS.items()
    )


FAMILY = Family(
    name=NAME,
    summary="T5 1.1 and Flan-T5 on their own",
    versions=_versions,
    recognises=holds_model_type("t5"),
    components=whole_folder,
    canonical=as_it_is,
    not_sites=T5_TABLES,
    spoken={name: (name, name) for name in _MODELS},
    parameters={
        "flan-t5-small": 76_961_152,
        "flan-t5-base": 247_577_856,
        "flan-t5-large": 783_150_080,
        "flan-t5-xl": 2_849_757_184,
        "flan-t5-xxl": 11_135_332_352,
        "t5-v1.1-xxl-encoder": 4_762_310_656,
    },
    # The task model around it adds a level.
    namings={"own": own_names, "nested": renamed("model", lambda path: f"transformer.{path}")},
    equal_architectures=(frozenset({"flan-t5-xxl", "t5-v1.1-xxl-encoder"}),),
)
