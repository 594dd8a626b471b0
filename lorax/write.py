"""From an Adapter to files, in the dialect asked for, naming the base model they are for."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from torch import Tensor

from lorax.adapter import Adapter, LowRank, Site, Update
from lorax.algorithm import Encoded
from lorax.algorithms import ALGORITHMS
from lorax.base_model import BaseModel
from lorax.dialect import Dialect, EncodedFile, EncodedModule, Writing
from lorax.dialects import DIALECTS
from lorax.errors import Refused, Stop, Unsupported
from lorax.factors import HALVES, count_non_finite
from lorax.fusing import fuse_updates, fuse_vectors
from lorax.naming import NamedModule
from lorax.weight_file import WrittenFile, write_file, write_hashed

FALLBACK = "diffusers"
"""The dialect of conversions of adapters whose own dialect is only read."""
_SHOWN = 3


def write_adapter(
    adapter: Adapter, folder: Path, *, dialect: str, base: BaseModel, stem: str, metadata: Mapping[str, str]
) -> tuple[Path, ...]:
    """Writes an adapter as write_adapter_files does and gives the paths of its files, weights first."""
    written = write_adapter_files(adapter, folder, dialect=dialect, base=base, stem=stem, metadata=metadata)
    return tuple(file.path for file in written)


def write_adapter_files(
    adapter: Adapter, folder: Path, *, dialect: str, base: BaseModel, stem: str, metadata: Mapping[str, str]
) -> tuple[WrittenFile, ...]:
    """Writes an adapter and gives its files with their hashes and sizes, weights first.

    kohya: stem.safetensors, diffusers: pytorch_lora_weights.safetensors, peft: adapter_model.safetensors with
    adapter_config.json; factors in adapter.dtype, scales kept. base: the model the files are for, whose name replaces
    that of the source; metadata: further header entries, which win over those carried from the source.
    Each file appears at once and whole. Raises Refused("non-finite") when a value does not fit into the element type,
    Refused("all-zero") when no update is left, Unsupported("unwritable") for what the dialect cannot say, Stop for a
    dialect that does not exist or is only read.
    """
    spoken = writable_dialect(dialect)
    if not (adapter.updates or adapter.vectors or adapter.saved):
        raise Refused("all-zero", f"no update is left of {stem!r}, so there is nothing to write", where=str(folder))
    modules, vectors = encode_modules(adapter, base, spoken)
    encoded = spoken.pack(modules, vectors, Writing(adapter, base, stem, adapter.dtype)) if spoken.pack else []
    known = set(_halves(adapter))
    for file in encoded:
        _refuse_overflow(file, folder, known)
    folder.mkdir(parents=True, exist_ok=True)
    return tuple(written for file in encoded for written in _write(file, folder, metadata))


def writable_dialect(name: str) -> Dialect:
    """Gives a dialect that can be written, by name. Raises Stop."""
    dialect = DIALECTS.get(name)
    if dialect is None or dialect.pack is None:
        known = ", ".join(each.name for each in DIALECTS.values() if each.pack is not None)
        what = "is only read" if dialect is not None else "does not exist"
        raise Stop(f"dialect {name!r} {what}; choose one of {known}")
    return dialect


def dialect_for(adapter: Adapter) -> str:
    """Gives the dialect that an adapter's conversion is written in: its own, or diffusers' where that is only read."""
    dialect = DIALECTS.get(adapter.dialect)
    return adapter.dialect if dialect is not None and dialect.pack is not None else FALLBACK


def encode_modules(
    adapter: Adapter, base: BaseModel, dialect: Dialect
) -> tuple[list[EncodedModule], dict[tuple[str, str], Tensor]]:
    """Gives the modules to be written as a dialect spells them, and the vectors by (spelling, role).

    Raises Unsupported("unwritable") for what the dialect has no word for.
    """
    updates, vectors = dict(adapter.updates), dict(adapter.vectors)
    modules: list[EncodedModule] = []
    spoken: dict[tuple[str, str], Tensor] = {}
    for spelling, named in _modules(base, dialect):
        if not (updates or vectors):
            break
        own = {part.site: updates.pop(part.site) for part in named.parts if part.site in updates}
        if own:
            modules.append(_encoded(fuse_updates(own, named), spelling, named, base, dialect))
        for leaf, role in (("bias", "bias_diff"), ("weight", "weight_diff")):
            if changed := dict(_popped(vectors, named, leaf)):
                spoken[spelling, role] = fuse_vectors(changed, named, base, leaf)
    if left := [*updates, *vectors]:
        shown = ", ".join(map(str, left[:_SHOWN]))
        message = f"{dialect.name} has no word for {len(left)} parts of {base.name} that the adapter patches: {shown}"
        raise Unsupported("unwritable", message)
    return modules, spoken


@lru_cache(maxsize=16)
def _modules(base: BaseModel, dialect: Dialect) -> tuple[tuple[str, NamedModule], ...]:
    """All spellings of a dialect for a base: thousands, which are the same for every adapter."""
    return tuple(dialect.modules(base))


def _popped(vectors: dict[Site, Tensor], named: NamedModule, leaf: str) -> Iterator[tuple[Site, Tensor]]:
    for part in named.parts:
        site = Site(part.site.component, f"{part.site.path}.{leaf}")
        if site in vectors:
            yield site, vectors.pop(site)


def _encoded(update: Update, spelling: str, named: NamedModule, base: BaseModel, dialect: Dialect) -> EncodedModule:
    name, encoded = _encode(update, named, base, dialect)
    return EncodedModule(spelling, named, name, encoded.tensors, encoded.rank, encoded.scale)


def _encode(update: Update, named: NamedModule, base: BaseModel, dialect: Dialect) -> tuple[str, Encoded]:
    is_table = named.parts[0].site in base.tables
    name = "lora_embedding" if is_table and isinstance(update, LowRank) else update.algorithm
    encode = ALGORITHMS[name].encode
    if name in dialect.says and encode is not None:
        return name, encode(update)
    factors = update.low_rank()
    encode = ALGORITHMS["lora"].encode
    if factors is None or is_table or "lora" not in dialect.says or encode is None:
        message = f"{dialect.name} has no word for the {name} update of {named.path}, and it is no exact LoRA"
        raise Unsupported("unwritable", message)
    return "lora", encode(factors)


def _halves(adapter: Adapter) -> Iterator[int]:
    """Where factors lie that are as a file held them, and so were looked at when it was read: only those are halves."""
    for update in adapter.updates.values():
        if isinstance(update, LowRank):
            yield from (factor.data_ptr() for factor in (update.up, update.down) if factor.dtype in HALVES)


def _refuse_overflow(file: EncodedFile, folder: Path, known: Collection[int]) -> None:
    for name, tensor in file.tensors.items():
        if tensor.data_ptr() not in known and count_non_finite(tensor):
            message = f"tensor {name!r} holds values that {tensor.dtype} cannot; write it in float32"
            raise Refused("non-finite", message, where=str(folder / file.name))


def _write(file: EncodedFile, folder: Path, metadata: Mapping[str, str]) -> Iterator[WrittenFile]:
    weights = folder / file.name
    weights.parent.mkdir(parents=True, exist_ok=True)
    entries = {**file.metadata, **metadata}
    yield write_hashed(weights, file.tensors, metadata=entries, hash_entry=file.hash_entry)
    if file.config_name:
        config = folder / file.config_name
        text = json.dumps(file.config, indent=2, sort_keys=True).encode() + b"\n"
        yield WrittenFile(config, write_file(config, [text]), "", len(text))
