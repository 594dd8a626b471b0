"""Small base models with true names: enough for every rule of a dialect, too small to be anybody's."""

from __future__ import annotations

from functools import cache

from lorax.base_model import BaseModel
from lorax.base_models import known_bases
from lorax.base_models.wan import _Transformer
from lorax.decoders import base_from_config
from lorax.inventories.known import known_base
from lorax.inventories.text_encoders import clip_text, t5_encoder
from lorax.inventories.transformer import joint_block, single_block, two_layers
from lorax.inventory import Parameters, linear
from tests.stand_ins.adapter_files import small_base

_WIDTH = 8


def _flux_transformer() -> Parameters:
    yield from two_layers("time_text_embed.timestep_embedder", _WIDTH, 4)
    yield from two_layers("time_text_embed.text_embedder", _WIDTH, 12)
    yield from linear("context_embedder", _WIDTH, 16)
    yield from linear("x_embedder", _WIDTH, 4)
    for number in range(2):
        yield from joint_block(f"transformer_blocks.{number}", _WIDTH, head=4)
        yield from single_block(f"single_transformer_blocks.{number}", _WIDTH, head=4)
    yield from linear("norm_out.linear", 2 * _WIDTH, _WIDTH)
    yield from linear("proj_out", 4, _WIDTH)


@cache
def known(name: str) -> BaseModel:
    """Returns a base that is known by its inventory."""
    return next(base for base in known_bases() if base.name == name)


@cache
def small_flux() -> BaseModel:
    """Returns a Flux of width 8 with two joint and two single blocks and both text encoders."""
    components = {
        "transformer": _flux_transformer(),
        "text_encoder": clip_text(1, 12, vocab=20, positions=7),
        "text_encoder_2": t5_encoder(1, 16, 64, 20, vocab=20),
    }
    return known_base("small-flux", family="flux", labels=("examples/small-flux",), components=components)


@cache
def small_wan() -> BaseModel:
    """Returns a Wan of width 8 with one block that attends to an image."""
    transformer = _Transformer(layers=1, width=_WIDTH, inner=16, sees_image=True)
    return known_base(
        "small-wan", family="wan", labels=("examples/small-wan",), components={"transformer": transformer.parameters()}
    )


@cache
def small_llama() -> BaseModel:
    """Returns a Llama of width 16 with two layers."""
    config = {
        "model_type": "llama",
        "vocab_size": 40,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
    }
    return base_from_config(config, name="small-llama")


@cache
def small_unet() -> BaseModel:
    """Returns the Stable-Diffusion-shaped base of widths 8 and 16 with one text encoder layer."""
    return small_base("small-unet", labels=["examples/small-unet"])
