"""Makes tiny untrained language models (Llama's shape, byte-level tokenizer) as transformers folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lorax.checkpoint import Checkpoint, open_checkpoint
from lorax.language_model import LanguageModel, load_language_model
from lorax.probe import ProbeSettings

LETTERS = "abcdefghijklmnop"
END = "<|end|>"
SETTINGS = ProbeSettings(prompts=("abc", "dd"), samples=6, length=12)


@dataclass(frozen=True)
class TextPair:
    """Two language models at hand as checkpoints and as models."""

    source: Checkpoint
    target: Checkpoint
    source_model: LanguageModel
    target_model: LanguageModel


def make_text_base(folder: Path, *, seed: int, width: int = 16, letters: str = LETTERS) -> Path:
    """Writes a base folder with two layers and weights drawn from `seed`, and returns it."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(letters) + 1,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
        bos_token_id=len(letters),
        eos_token_id=len(letters),
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    write_tokenizer(folder, letters)
    return folder


def nudged_text_base(folder: Path, out: Path, *, seed: int, share: float = 0.05) -> Path:
    """Writes a later checkpoint of the same lineage: every weight moved by `share` of its own size."""
    model = LlamaForCausalLM.from_pretrained(folder)
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        step = torch.randn(weight.shape, generator=generator) * weight.detach().std(correction=0)
        weight.data.add_(share * step)
    model.save_pretrained(out)
    write_tokenizer(out, LETTERS)
    return out


def write_tokenizer(folder: Path, letters: str) -> None:
    """Writes a tokenizer whose tokens are single letters."""
    vocabulary = {letter: number for number, letter in enumerate([*letters, END])}
    backend = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=END, eos_token=END).save_pretrained(folder)


def open_text_pair(source: Path, target: Path) -> TextPair:
    """Opens two base folders as a pair."""
    first, second = (open_checkpoint(folder, name=folder.name) for folder in (source, target))
    return TextPair(first, second, load_language_model(source), load_language_model(target))


@pytest.fixture(scope="session")
def text_lineage(tmp_path_factory: pytest.TempPathFactory) -> TextPair:
    """Returns a language model and a later checkpoint of it."""
    folder = tmp_path_factory.mktemp("text-lineage")
    source = make_text_base(folder / "letters-v1", seed=1)
    return open_text_pair(source, nudged_text_base(source, folder / "letters-v2", seed=2))


@pytest.fixture(scope="session")
def text_strangers(tmp_path_factory: pytest.TempPathFactory) -> TextPair:
    """Returns two language models of different width that have nothing to do with each other."""
    folder = tmp_path_factory.mktemp("text-strangers")
    source = make_text_base(folder / "letters-v1", seed=1)
    return open_text_pair(source, make_text_base(folder / "letters-wide", seed=3, width=24))
