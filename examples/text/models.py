"""A base model of this example: a small Llama that reads bytes, its making, saving and opening.

A base is a transformers folder: `LlamaForCausalLM` with grouped-query attention, and a
tokenizer whose token n is byte n.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from examples.text.corpus import Document

CONTEXT = 256
START, END, PAD = 256, 257, 258
SPECIALS = {"<|start|>": START, "<|end|>": END, "<|pad|>": PAD}
OWNER = "lorax-examples"
"""Who the bases belong to, where a name asks for an owner."""

NARROW: dict[str, int] = {
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
WIDE: dict[str, int] = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
}


def make_model(shape: dict[str, int], seed: int) -> LlamaForCausalLM:
    """Gives an untrained model, float32: four layers, heads of 32, each key head shared by two query heads."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=256 + len(SPECIALS),
        num_hidden_layers=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        bos_token_id=START,
        eos_token_id=END,
        pad_token_id=PAD,
        **shape,
    )
    return LlamaForCausalLM(config)


def _letters() -> dict[str, int]:
    """Gives the character by which byte-level tokenizers spell each byte: itself if visible, else one behind U+0100."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Gives the tokenizer of all bases: byte-level, without merges, so that token n is byte n. It adds no specials."""
    backend = Tokenizer(BPE(vocab={**_letters(), **SPECIALS}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    start, end, pad = SPECIALS
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=start,
        eos_token=end,
        pad_token=pad,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def save_base(model: LlamaForCausalLM, folder: Path) -> None:
    """Writes a transformers folder, float16 weights in one safetensors file."""
    model.generation_config = GenerationConfig(bos_token_id=START, eos_token_id=END, pad_token_id=PAD)
    model.to(torch.float16).save_pretrained(str(folder))
    make_tokenizer().save_pretrained(str(folder))


def open_base(folder: Path) -> LlamaForCausalLM:
    """Opens a base, float32, ready to be measured."""
    model = LlamaForCausalLM.from_pretrained(str(folder), dtype=torch.float32, local_files_only=True)
    return model.eval()


def stream(documents: Iterable[Document]) -> Tensor:
    """Gives documents as one row of tokens, int16 (n,): start, bytes, end, and so on."""
    pieces: list[Tensor] = []
    for document in documents:
        content = torch.frombuffer(bytearray(document.text.encode()), dtype=torch.uint8).to(torch.int16)
        edges = torch.tensor([START, END], dtype=torch.int16)
        pieces += [edges[:1], content, edges[1:]]
    return torch.cat(pieces)


def windows(tokens: Tensor, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Gives windows at random places of a row of tokens, int64 of that shape (count, length)."""
    count, length = shape
    starts = torch.randint(len(tokens) - length, (count,), generator=generator)
    return tokens[starts[:, None] + torch.arange(length)].long()


def read_json(file: Path) -> dict[str, Any]:
    """Gives the object in a JSON file."""
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content
