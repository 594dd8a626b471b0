"""From an Adapter to files, in the dialect asked for, naming the base model they are for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from lorax.adapter import Adapter
from lorax.base_model import BaseModel
from lorax.dialect import EncodedFile
from lorax.dialects import DIALECTS
from lorax.errors import Refused, Stop
from lorax.factors import count_non_finite
from lorax.weight_file import write_file, write_weight_file


def write_adapter(
    adapter: Adapter, folder: Path, *, dialect: str, base: BaseModel, stem: str, metadata: Mapping[str, str]
) -> tuple[Path, ...]:
    """Writes an adapter and gives the paths of its files, weights first.

    kohya: stem.safetensors, diffusers: pytorch_lora_weights.safetensors, peft: adapter_model.safetensors with
    adapter_config.json; factors in adapter.dtype, scales kept. base: the model the files are for, whose name replaces
    that of the source; metadata: further header entries, which win over those carried from the source.
    Each file appears at once and whole. Raises Refused("non-finite") when a value does not fit into the element type,
    Refused("all-zero") when no update is left, Stop for a dialect that does not exist.
    """
    if dialect not in DIALECTS:
        raise Stop(f"there is no dialect {dialect!r}; choose one of {', '.join(DIALECTS)}")
    if not adapter.updates:
        raise Refused("all-zero", f"no update is left of {stem!r}, so there is nothing to write", where=str(folder))
    encoded = DIALECTS[dialect].encode(adapter, base, stem)
    for file in encoded:
        _refuse_overflow(file, folder)
    folder.mkdir(parents=True, exist_ok=True)
    return tuple(path for file in encoded for path in _write(file, folder, metadata))


def _refuse_overflow(file: EncodedFile, folder: Path) -> None:
    for name, tensor in file.tensors.items():
        if count_non_finite(tensor.float()):
            message = f"tensor {name!r} holds values that {tensor.dtype} cannot; write it in float32"
            raise Refused("non-finite", message, where=str(folder / file.name))


def _write(file: EncodedFile, folder: Path, metadata: Mapping[str, str]) -> list[Path]:
    weights = folder / file.name
    weights.parent.mkdir(parents=True, exist_ok=True)
    write_weight_file(weights, file.tensors, metadata={**file.metadata, **metadata})
    if not file.config_name:
        return [weights]
    config = folder / file.config_name
    text = json.dumps(file.config, indent=2, sort_keys=True) + "\n"
    write_file(config, [text.encode()])
    return [weights, config]
