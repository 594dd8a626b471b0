"""diffusers_old: what diffusers wrote from February to September 2023, when LoRA lay in attention processors.

`….attn1.processor.to_q_lora.down.weight`, `to_out_lora` for to_out.0; until June without `unet.` before it. Text
encoders had the same names (`….self_attn.to_q_lora.down.weight`) and then `….q_proj.lora_linear_layer.down.weight`.
scale = 1: there is no word for another one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

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
from lorax.flat_names import spelled_paths
from lorax.naming import NamedModule
from lorax.suffixes import joined
from lorax.written_metadata import spec_entries

if TYPE_CHECKING:
    from torch import Tensor

_FILE_NAME = "pytorch_lora_weights.safetensors"
_SUFFIXES = {
    ".down.weight": "down",
    ".up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".alpha": "alpha",
}
_READ = dict(sorted(_SUFFIXES.items(), key=lambda pair: -len(pair[0])))
_NAME = re.compile(r".*\.(processor\.)?(to_(q|k|v|out)|add_[kv]_proj|to_add_out)_lora\.(down|up)\.weight")
_ALSO = re.compile(r".*\.lora_linear_layer\.(down|up)\.weight|.*\.alpha")
_ATTENTION = re.compile(r"(.*\.(?:attn\d|self_attn))\.(to_[qkv]|to_out\.0|[qkv]_proj|out_proj)")


def _recognise(names: Sequence[str], _metadata: Mapping[str, str]) -> Evidence | None:
    marked = sum(_NAME.fullmatch(name) is not None for name in names)
    also = sum(_ALSO.fullmatch(name) is not None for name in names)
    if not marked or 2 * (marked + also) <= len(names):
        return None
    return share_evidence(names, marked + also, "are of attention processors, as in early 2023", weight=MARKED)


def _modules(base: BaseModel) -> Iterator[tuple[str, NamedModule]]:
    for module in all_modules(base):
        for path in spelled_paths(module):
            # Late in 2023's old form, text encoders had plain names; before, attention alone and the U-Net's names.
            if module.component.startswith("text_encoder"):
                yield f"{module.component}.{path}", module
            match = _ATTENTION.fullmatch(path)
            for old in _old_names(*match.groups()) if match is not None else ():
                yield f"{module.component}.{old}", module
                if module.component == "unet":
                    yield old, module


def _old_names(attention: str, projection: str) -> Iterator[str]:
    # Files of 2023 call the text encoder's projections by the U-Net's names: to_q for q_proj.
    to_out = projection in {"to_out.0", "out_proj"}
    short = "to_out" if to_out else f"to_{projection.removeprefix('to_')[0]}"
    if not attention.endswith("self_attn"):
        yield f"{attention}.processor.{short}_lora"
    yield f"{attention}.{short}_lora"


def _pack(
    modules: Sequence[EncodedModule], vectors: Mapping[tuple[str, str], Tensor], writing: Writing
) -> Sequence[EncodedFile]:
    refuse_vectors(vectors, "diffusers_old")
    refuse_saved(writing, "diffusers_old")
    tensors: dict[str, Tensor] = {}
    for module in modules:
        own = folded(module, dtype=writing.dtype)
        # The modules of text encoders have their plain paths.
        suffixes = _SUFFIXES if module.spelling.endswith("_lora") else dict(list(_SUFFIXES.items())[2:])
        tensors |= joined(module.spelling, own, suffixes)
    return [EncodedFile(_FILE_NAME, tensors, {**spec_entries(writing), "format": "pt"})]


DIALECT = Dialect(
    name="diffusers_old",
    summary="diffusers' attention processors of early 2023",
    recognise=_recognise,
    split=lambda name: split_by_suffix(name, _READ),
    modules=_modules,
    strength=lambda _container: alpha_over_rank(),
    says=frozenset({"lora"}),
    pack=_pack,
)
