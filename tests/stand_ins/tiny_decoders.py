"""Makes tiny untrained Llama-shaped bases (weights, config.json, tokenizer.json), and pairs of them without models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lorax.adapter import Site
from lorax.checkpoint import Checkpoint, open_checkpoint
from lorax.compile import compile_plan
from lorax.decoders import base_from_config
from lorax.method import Setting
from lorax.plan import Plan
from lorax.weight_file import write_weight_file

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
CONFIG: dict[str, object] = {
    "model_type": "llama",
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "head_dim": 6,
    "vocab_size": len(LETTERS),
    "tie_word_embeddings": True,
}


@dataclass(frozen=True)
class DecoderPair:
    """Two language models as checkpoints."""

    source: Checkpoint
    target: Checkpoint

    def plan(self, method: str, settings: Mapping[str, Setting] | None = None) -> Plan:
        """Compiles a plan for this pair by a method that needs no activations."""
        return compile_plan(self.source, self.target, method=method, settings=settings or {})


def drawn_weights(config: Mapping[str, object], *, seed: int) -> dict[str, Tensor]:
    """Returns random weights for every parameter that such a model has, by name."""
    base = base_from_config(config)
    generator = torch.Generator().manual_seed(seed)
    shapes = {f"{site.path}.weight": shape.weight_shape for site, shape in {**base.sites, **base.tables}.items()}
    weights = {name: torch.randn(shape, generator=generator) / shape[1] ** 0.5 for name, shape in shapes.items()}
    return weights | {site.path: torch.ones(length) for site, length in base.vectors.items()}


def write_decoder(
    folder: Path, weights: Mapping[str, Tensor], config: Mapping[str, object], *, tokens: Sequence[str] = LETTERS
) -> Path:
    """Writes a folder as transformers does and returns it. tokens: in the order of the token table's rows."""
    folder.mkdir(parents=True)
    write_weight_file(folder / "model.safetensors", weights, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    vocabulary = {token: row for row, token in enumerate(tokens)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "WordLevel", "vocab": vocabulary}}))
    return folder


def make_decoder(folder: Path, *, seed: int, **changes: object) -> Path:
    """Writes a base with weights drawn from `seed`. changes: fields of the configuration that differ from CONFIG."""
    config = {**CONFIG, **changes}
    return write_decoder(folder, drawn_weights(config, seed=seed), config)


def open_decoders(source: Path, target: Path) -> DecoderPair:
    """Opens two base folders as a pair."""
    return DecoderPair(*(open_checkpoint(folder, name=folder.name) for folder in (source, target)))


def weights_of(base: Checkpoint) -> dict[str, Tensor]:
    """Returns all weights of a tiny base by name, norms included."""
    matrices = {f"{site.path}.weight": base.weight(site) for site in (*base.base.sites, *base.base.tables)}
    return matrices | {site.path: torch.ones(length) for site, length in base.base.vectors.items()}


def layer_site(role: str, layer: int = 0) -> Site:
    """Returns the site of a role in a layer: self_attn.q_proj and so on."""
    return Site("model", f"model.layers.{layer}.{role}")


@pytest.fixture(scope="session")
def decoders(tmp_path_factory: pytest.TempPathFactory) -> DecoderPair:
    """Returns a language model and a later checkpoint of it."""
    folder = tmp_path_factory.mktemp("decoders")
    source = make_decoder(folder / "tiny-v1", seed=1)
    drift = drawn_weights(CONFIG, seed=2)
    later = {name: weight + 0.05 * drift[name] for name, weight in drawn_weights(CONFIG, seed=1).items()}
    return open_decoders(source, write_decoder(folder / "tiny-v2", later, CONFIG))


@pytest.fixture(scope="session")
def decoder_twins(tmp_path_factory: pytest.TempPathFactory) -> DecoderPair:
    """Returns a language model paired with itself."""
    folder = make_decoder(tmp_path_factory.mktemp("decoder-twins") / "tiny-v1", seed=1)
    return open_decoders(folder, folder)
