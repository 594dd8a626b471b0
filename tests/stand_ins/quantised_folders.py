"""Writes folders of transformers whose weights are quantised: packed by hand, number by number, as the formats say."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from lorax.weight_file import write_weight_file

WIDTH, INNER = 32, 64
Packed = Callable[[Tensor], tuple[dict[str, Tensor], Tensor]]
"""Gives the tensors of a quantised weight by role, and what they are worth."""


def llama_folder(folder: Path) -> dict[str, Tensor]:
    """Saves a small Llama and returns its tensors."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def quantised_llama(
    folder: Path, settings: Mapping[str, object] | None, pack: Packed
) -> tuple[Path, dict[str, Tensor]]:
    """Saves the small Llama with every projection quantised; returns the folder and what the weights are worth."""
    worth: dict[str, Tensor] = {}
    tensors: dict[str, Tensor] = {}
    for name, tensor in llama_folder(folder).items():
        if name.endswith("_proj.weight"):
            parts, worth[name.removesuffix(".weight")] = pack(tensor)
            tensors |= {f"{name.removesuffix('.weight')}.{role}": part for role, part in parts.items()}
        else:
            tensors[name] = tensor
    write_weight_file(folder / "model.safetensors", tensors)
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    if settings is not None:
        config["quantization_config"] = dict(settings)
    (folder / "config.json").write_text(json.dumps(config))
    return folder, worth


def words_of(rows: Sequence[Sequence[int]], bits: int) -> Tensor:
    """Returns rows of small whole numbers as int32 words, one number's bits after the other's, lowest bits first."""
    found = []
    for row in rows:
        stream = sum(number << (place * bits) for place, number in enumerate(row))
        words = [(stream >> start) & 0xFFFFFFFF for start in range(0, len(row) * bits, 32)]
        found.append([word - 2**32 if word >= 2**31 else word for word in words])
    return torch.tensor(found, dtype=torch.int32)


def gptq(bits: int, *, group: int, version: int = 1, order: bool = False, index: bool = True) -> Packed:
    """Returns a packer of GPTQ's format; order: the groups' inputs are scattered; index: g_idx is written."""

    def pack(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        generator = torch.Generator().manual_seed(bits)
        outputs, inputs = weight.shape
        group_of = torch.arange(inputs) // group
        if order:
            group_of = group_of[torch.randperm(inputs, generator=generator)]
        groups = int(group_of.max()) + 1
        numbers = torch.randint(0, 2**bits, (inputs, outputs), generator=generator)
        zeros = torch.randint(1, 2**bits, (groups, outputs), generator=generator)
        scales = torch.rand(groups, outputs, generator=generator).half()
        stored = {
            "qweight": words_of(numbers.T.tolist(), bits).T.contiguous(),
            "qzeros": words_of((zeros - (1 if version == 1 else 0)).tolist(), bits),
            "scales": scales,
        }
        if index:
            stored["g_idx"] = group_of.to(torch.int32)
        worth = torch.empty(outputs, inputs)
        for i in range(inputs):
            worth[:, i] = scales[group_of[i]].float() * (numbers[i] - zeros[group_of[i]])
        return stored, worth

    return pack


def awq(group: int) -> Packed:
    """Returns a packer of AWQ's format for GEMM kernels: eight outputs in a word, even ones first."""

    def pack(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        generator = torch.Generator().manual_seed(group)
        outputs, inputs = weight.shape
        numbers = torch.randint(0, 16, (inputs, outputs), generator=generator)
        zeros = torch.randint(0, 16, (inputs // group, outputs), generator=generator)
        scales = torch.rand(inputs // group, outputs, generator=generator).half()
        stored = {"qweight": _interleaved(numbers), "qzeros": _interleaved(zeros), "scales": scales}
        worth = torch.empty(outputs, inputs)
        for i in range(inputs):
            worth[:, i] = scales[i // group].float() * (numbers[i] - zeros[i // group])
        return stored, worth

    return pack


def _interleaved(numbers: Tensor) -> Tensor:
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    rows = [[row[start + place] for start in range(0, len(row), 8) for place in order] for row in numbers.tolist()]
    return words_of(rows, 4)


def fp8(scale_name: str, scale: str, block: int = 16) -> Packed:
    """Returns a packer of 8-bit floats; scale: "tensor", "output" or "block"."""

    def pack(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        generator = torch.Generator().manual_seed(8)
        numbers = weight.to(torch.float8_e4m3fn)
        high, wide = (-(-size // block) for size in weight.shape)
        shape = {"tensor": (), "output": (len(weight), 1), "block": (high, wide)}[scale]
        scales = torch.rand(shape, generator=generator) + 0.5
        worth = numbers.float()
        for i in range(weight.shape[0]):
            for j in range(weight.shape[1]):
                place = {"tensor": (), "output": (i, 0), "block": (i // block, j // block)}[scale]
                worth[i, j] *= scales[place]
        return {"weight": numbers, scale_name: scales}, worth

    return pack
