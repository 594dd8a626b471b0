"""xlabs: XLabs' trainer for Flux, LoRA in attention processors.

`double_blocks.0.processor.qkv_lora1.down.weight`: 1 is the image stream, 2 the text stream, proj_lora the projection
behind the attention. In `single_blocks.0.processor.qkv_lora` are q, k and v alone, the first rows of linear1.
scale = 1: there is no word for another one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from lorax.adapter import SiteShape
from lorax.base_model import BaseModel
from lorax.dialect import (
    MARKED,
    Dialect,
    EncodedFile,
    EncodedModule,
    Evidence,
    Writing,
    all_modules,
    share_evidence,
    split_by_suffix,
)
from lorax.factors import folded
from lorax.flat_files import alpha_over_rank, refuse_saved, refuse_vectors
from lorax.naming import NamedModule
from lorax.suffixes import joined
from lorax.written_metadata import spec_entries

if TYPE_CHECKING:
    from torch import Tensor

_SUFFIXES = {".down.weight": "down", ".up.weight": "up"}
_NAME = re.compile(
    r"(diffusion_model\.)?(double|single)_blocks\.\d+\.processor\.(qkv|proj)_lora[12]?\.(down|up)\.weight"
)
_DOUBLE = re.compile(r"(double_blocks\.\d+)\.(img|txt)_attn\.(qkv|proj)")
_SINGLE = re.compile(r"(single_blocks\.\d+)\.linear([12])")


def _recognise(names: Sequence[str], _metadata: Mapping[str, str]) -> Evidence | None:
    matching = sum(_NAME.fullmatch(name) is not None for name in names)
    if 2 * matching <= len(names):
        return None
    return share_evidence(names, matching, "are attention processors of Flux", weight=MARKED)


def _modules(base: BaseModel) -> Iterator[tuple[str, NamedModule]]:
    for module in all_modules(base, first="original"):
        if module.component != "transformer":
            continue
        if match := _DOUBLE.fullmatch(module.path):
            block, stream, part = match.groups()
            yield f"{block}.processor.{part}_lora{1 if stream == 'img' else 2}", module
        elif match := _SINGLE.fullmatch(module.path):
            block, layer = match.groups()
            if layer == "2":
                yield f"{block}.processor.proj_lora", module
            elif module.shape is not None:
                yield f"{block}.processor.qkv_lora", _attention_rows(module, module.shape)


def _attention_rows(module: NamedModule, shape: SiteShape) -> NamedModule:
    """The rows of linear1 that are q, k and v: three times its width."""
    rows = 3 * shape.in_features
    parts = tuple(part for part in module.parts if part.rows is not None and part.rows[1] <= rows)
    return NamedModule(module.component, module.path, parts, SiteShape(rows, shape.in_features))


def _pack(
    modules: Sequence[EncodedModule], vectors: Mapping[tuple[str, str], Tensor], writing: Writing
) -> Sequence[EncodedFile]:
    refuse_vectors(vectors, "xlabs")
    refuse_saved(writing, "xlabs")
    tensors: dict[str, Tensor] = {}
    for module in modules:
        tensors |= joined(module.spelling, folded(module, dtype=writing.dtype), _SUFFIXES)
    metadata = {**spec_entries(writing, naming="original"), "format": "pt"}
    return [EncodedFile(f"{writing.stem}.safetensors", tensors, metadata)]


DIALECT = Dialect(
    name="xlabs",
    summary="XLabs' trainer for Flux",
    recognise=_recognise,
    split=lambda name: split_by_suffix(name.removeprefix("diffusion_model."), _SUFFIXES),
    modules=_modules,
    strength=lambda _container: alpha_over_rank(),
    says=frozenset({"lora"}),
    pack=_pack,
)
