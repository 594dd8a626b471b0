"""A base model of this example: a small pixel-space Stable Diffusion, its making, saving and opening.

A base is a diffusers folder: U-Net with cross attention, CLIP text encoder, CLIP tokenizer, scheduler. There is no VAE:
the U-Net paints 16x16 pixels of one channel directly.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from tokenizers import pre_tokenizers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from examples.digits import styles

TOKENS = 16
"""Length that every caption is padded to."""
TEXT_WIDTH = 48
OWNER = "lorax-examples"
"""Who the bases belong to, where a name asks for an owner."""
START, END, PAD = "<|startoftext|>", "<|endoftext|>", "<|pad|>"

UNET: dict[str, Any] = {
    "sample_size": styles.SIZE,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (16, 32, 64),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "transformer_layers_per_block": (1, 1, 2),
    "cross_attention_dim": TEXT_WIDTH,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
"""Attention at 8x8 pixels (one transformer block a stack) and at 4x4 (two), none at 16x16, where it would cost most."""
SLIM_CHANGES: dict[str, Any] = {"mid_block_type": "UNetMidBlock2D", "transformer_layers_per_block": (1, 1, 1)}
"""digits-slim: no mid-block attention and second residual layer, and only the first of each two transformer blocks."""


@dataclass
class Base:
    """One base model in memory, float32."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer

    def tokens(self, captions: Sequence[str]) -> Tensor:
        """Token ids (n, 16) of captions."""
        found = self.tokenizer(
            list(captions), padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
        )
        ids: Tensor = found["input_ids"]
        return ids

    def copy(self) -> Base:
        """Its own weights, the same tokenizer."""
        return Base(deepcopy(self.unet), deepcopy(self.text_encoder), self.tokenizer)

    def parts(self) -> dict[str, nn.Module]:
        """The components that hold weights."""
        return {"unet": self.unet, "text_encoder": self.text_encoder}


def _merge(words: Counter[tuple[str, ...]], pair: tuple[str, str]) -> Counter[tuple[str, ...]]:
    """The words with each occurrence of the pair made one token."""
    merged: Counter[tuple[str, ...]] = Counter()
    for word, count in words.items():
        tokens: list[str] = []
        for token in word:
            if tokens and (tokens[-1], token) == pair:
                tokens[-1] += token
            else:
                tokens.append(token)
        merged[tuple(tokens)] += count
    return merged


def learn_merges(captions: Sequence[str]) -> list[tuple[str, str]]:
    """Byte-pair merges of captions, commonest first, until a pair is seen only once.

    The trainer of `tokenizers` breaks ties at random, and four bases must share one tokenizer; this one breaks them by
    spelling.
    """
    split = CLIPTokenizer().backend_tokenizer.pre_tokenizer.pre_tokenize_str
    found = Counter(word for text in captions for word, _ in split(text.lower()))
    words = Counter({(*word[:-1], f"{word[-1]}</w>"): count for word, count in found.items()})
    merges: list[tuple[str, str]] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                pairs[pair] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if best is None or pairs[best] < 2:
            return merges
        merges.append(best)
        words = _merge(words, best)


def make_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer with a byte-level BPE learnt from the captions; the same whenever and wherever it is made."""
    merges = learn_merges(styles.corpus())
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [
        START,
        END,
        PAD,
        *letters,
        *(f"{letter}</w>" for letter in letters),
        *(left + right for left, right in merges),
    ]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=PAD,
        model_max_length=TOKENS,
    )


def make_base(seed: int, **unet_changes: Any) -> Base:
    """A fresh base with random weights drawn by the seed."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    text_config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    text_encoder = CLIPTextModel(text_config)
    return Base(UNet2DConditionModel(**{**UNET, **unet_changes}), text_encoder, tokenizer)


def make_scheduler() -> DDIMScheduler:
    """Noise schedule of all bases, that of Stable Diffusion; predictions are of the noise."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=True,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


def _model_index() -> dict[str, Any]:
    return {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.1",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": [None, None],
    }


def save_base(base: Base, folder: Path) -> None:
    """Write a base as a float16 diffusers folder; it appears whole or not at all."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    half = base.copy()
    half.unet.half().save_pretrained(partial / "unet")
    half.text_encoder.half().save_pretrained(partial / "text_encoder")
    base.tokenizer.save_pretrained(partial / "tokenizer")
    _write_tokenizer_files(base.tokenizer, partial / "tokenizer")
    make_scheduler().save_pretrained(partial / "scheduler")
    (partial / "model_index.json").write_text(json.dumps(_model_index(), indent=2) + "\n")
    partial.replace(folder)


def _write_tokenizer_files(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """vocab.json and merges.txt beside tokenizer.json, for readers older than transformers 5."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False) + "\n", encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def open_base(folder: Path) -> Base:
    """Read a base back as float32, in evaluation mode, nothing requiring a gradient."""
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    for part in (unet, text_encoder):
        part.requires_grad_(requires_grad=False).eval()
    # Libraries write where a model was opened from into what they save; that must not be a folder of this machine.
    unet.register_to_config(_name_or_path=f"{OWNER}/{folder.name}")
    text_encoder.name_or_path = f"{OWNER}/{folder.name}"
    return Base(unet, text_encoder, tokenizer)


def unet_file(folder: Path) -> Path:
    """The U-Net's weights in a base folder."""
    return folder / "unet" / "diffusion_pytorch_model.safetensors"


def file_hash(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
