"""Small hand-made adapter files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lorax.adapter import Adapter
from lorax.base_model import BaseModel
from lorax.read import AdapterFiles, read_adapter
from lorax.weight_file import write_weight_file


def randoms(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Returns a random tensor of each shape."""
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def read_tensors(
    folder: Path,
    tensors: Mapping[str, Tensor],
    base: BaseModel,
    *,
    metadata: Mapping[str, str] = {},
    config: Mapping[str, object] | None = None,
) -> Adapter:
    """Writes the tensors as an adapter file, with a configuration beside it if there is one, and reads it."""
    weights, beside = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    write_weight_file(weights, tensors, metadata=metadata)
    if config is not None:
        beside.write_text(json.dumps(config))
    return read_adapter(AdapterFiles(weights, beside if config is not None else None), candidates=[base])
