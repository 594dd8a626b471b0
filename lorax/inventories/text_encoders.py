"""The text encoders that pipelines share: CLIP and T5, by formula, in the names of transformers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

from lorax.inventory import Parameter, Parameters, linear, norm, table
from lorax.naming import NamedModule, own_names, without_text_model

if TYPE_CHECKING:
    from lorax.base_model import BaseModel

CLIP_TABLES = frozenset({"token_embedding", "position_embedding"})
"""Last parts of the paths of CLIP's lookup tables."""
T5_TABLES = frozenset({"shared", "embed_tokens", "relative_attention_bias"})
"""Last parts of the paths of T5's lookup tables; embed_tokens is `shared` under another name."""

_T5_HEAD = 64
_T5_BUCKETS = 32
_BARE = ("encoder.", "embeddings.", "final_layer_norm.")


def clip_text(
    layers: int,
    width: int,
    *,
    projection: int | None = None,
    vocab: int = 49408,
    positions: int = 77,
    intermediate: int | None = None,
) -> Parameters:
    """Lists the parameters of a CLIP text encoder, CLIPTextModel in transformers, with the `text_model.` level.

    projection: width after text_projection, None without one (CLIPTextModelWithProjection has it, without a bias);
    intermediate: width inside the feed-forward part, four times the width where nothing is said.
    """
    inner = intermediate or 4 * width
    yield from table("text_model.embeddings.token_embedding", vocab, width)
    yield from table("text_model.embeddings.position_embedding", positions, width)
    for layer in range(layers):
        path = f"text_model.encoder.layers.{layer}"
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield from linear(f"{path}.self_attn.{part}", width, width)
        yield from norm(f"{path}.layer_norm1", width)
        yield from linear(f"{path}.mlp.fc1", inner, width)
        yield from linear(f"{path}.mlp.fc2", width, inner)
        yield from norm(f"{path}.layer_norm2", width)
    yield from norm("text_model.final_layer_norm", width)
    if projection is not None:
        yield from linear("text_projection", projection, width, bias=False)


def t5_encoder(
    layers: int,
    width: int,
    heads_width: int,
    ff: int,
    *,
    vocab: int = 32128,
    gated: bool = True,
    bias_in_every_layer: bool = False,
) -> Parameters:
    """Lists the parameters of a T5 encoder, T5EncoderModel in transformers; no linear layer has a bias.

    heads_width: width of all heads together, 64 each; ff: width inside the feed-forward part; gated: two parallel
    first layers (T5 1.1) instead of one; bias_in_every_layer: each layer has a table of relative positions (umT5)
    and not the first alone.
    """
    yield from table("shared", vocab, width)
    for layer in range(layers):
        attention, forward = (f"encoder.block.{layer}.layer.{part}" for part in (0, 1))
        for part in ("q", "k", "v"):
            yield from linear(f"{attention}.SelfAttention.{part}", heads_width, width, bias=False)
        yield from linear(f"{attention}.SelfAttention.o", width, heads_width, bias=False)
        if layer == 0 or bias_in_every_layer:
            path = f"{attention}.SelfAttention.relative_attention_bias"
            yield from table(path, _T5_BUCKETS, heads_width // _T5_HEAD)
        yield Parameter(f"{attention}.layer_norm.weight", (width,))
        for part in ("wi_0", "wi_1") if gated else ("wi",):
            yield from linear(f"{forward}.DenseReluDense.{part}", ff, width, bias=False)
        yield from linear(f"{forward}.DenseReluDense.wo", width, ff, bias=False)
        yield Parameter(f"{forward}.layer_norm.weight", (width,))
    yield Parameter("encoder.final_layer_norm.weight", (width,))


def text_encoder_names(base: BaseModel) -> Iterator[NamedModule]:
    """Lists the modules of a base's CLIP text encoders without their `text_model.` level.

    transformers 5.6 and later leave that level out of CLIPTextModel. Only the further names are listed, so this goes
    behind a naming that lists the canonical ones.
    """
    for module in own_names(base):
        for path in without_text_model(module.path)[1:]:
            yield NamedModule(module.component, path, module.parts, module.shape)


def own_names_and_text_encoders(base: BaseModel) -> Iterator[NamedModule]:
    """Lists all modules by their canonical names, and CLIP's also as transformers 5.6 and later call them."""
    return chain(own_names(base), text_encoder_names(base))


def with_text_model(module: str) -> str:
    """Gives a module of a CLIP text encoder its `text_model.` level back."""
    return f"text_model.{module}" if module.startswith(_BARE) else module
