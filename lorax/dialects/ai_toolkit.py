"""ai_toolkit: the files of Ostris' ai-toolkit, told by `software` in the header; their names are other tools'.

Flux as diffusers has it (`transformer.…lora_A.weight`), later models as ComfyUI has them (`diffusion_model.…`), both
without alpha, scale = 1; Stable Diffusion as sd-scripts has it (`lora_unet_…`, with alpha). DoRA's magnitude is called
`magnitude` and is per output. LoKr whose factors are whole has an alpha of 9999999999, which means nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from lorax.base_model import BaseModel
from lorax.dialect import (
    SIGNED,
    Dialect,
    EncodedFile,
    EncodedModule,
    Evidence,
    Writing,
    share_evidence,
    split_by_suffix,
)
from lorax.factors import folded
from lorax.flat_files import alpha_over_rank, refuse_saved, refuse_vectors, tensors_with_alpha
from lorax.flat_names import NAME, flat_modules, split_flat, trainer_prefixes
from lorax.naming import NamedModule
from lorax.native_names import native_modules
from lorax.pipeline_names import pipeline_modules
from lorax.suffixes import LYCORIS, PEFT, joined
from lorax.written_metadata import WEIGHTS_HASH, spec_entries

if TYPE_CHECKING:
    from torch import Tensor

_SUFFIXES = {**LYCORIS, ".magnitude": "magnitude_out"}
_DOTTED = {**PEFT, **_SUFFIXES}
_FLAT = re.compile(r"(lora|lycoris)_[^.]+\..+")
# Families that ai-toolkit trains under diffusers' names; it came to later ones by those of their makers.
_AS_DIFFUSERS = frozenset({"flux", "stable-diffusion-3"})


def _recognise(names: Sequence[str], metadata: Mapping[str, str]) -> Evidence | None:
    if "ai-toolkit" not in metadata.get("software", ""):
        return None
    known = sum(_split(name)[1] in _DOTTED.values() for name in names)
    return share_evidence(names, known, "have roles of adapters, software is ai-toolkit", weight=SIGNED)


def _split(name: str) -> tuple[str, str]:
    if _FLAT.fullmatch(name):
        return split_flat(name, _SUFFIXES)
    return split_by_suffix(name, _DOTTED)


def _modules(base: BaseModel) -> Iterator[tuple[str, NamedModule]]:
    flat_first = any(site.component == "unet" for site in base.sites)
    orders = [pipeline_modules(base), native_modules(base, bare=False)]
    if base.family not in _AS_DIFFUSERS:
        orders.reverse()
    flat_ones = flat_modules(base, first="own", prefixes=trainer_prefixes(base))
    wrapped = flat_modules(base, first="own", prefixes={"transformer": ("lycoris_",), "unet": ("lycoris_",)})
    for order in (flat_ones, *orders) if flat_first else (*orders, flat_ones):
        yield from order
    yield from wrapped


def _pack(
    modules: Sequence[EncodedModule], vectors: Mapping[tuple[str, str], Tensor], writing: Writing
) -> Sequence[EncodedFile]:
    refuse_vectors(vectors, "ai_toolkit")
    refuse_saved(writing, "ai_toolkit")
    with_dots = [module for module in modules if NAME.fullmatch(f"{module.spelling}.x") is None]
    tensors = tensors_with_alpha([module for module in modules if module not in with_dots], writing, _SUFFIXES)
    for module in with_dots:
        tensors |= joined(module.spelling, folded(module, dtype=writing.dtype), _DOTTED)
    metadata = {
        **spec_entries(writing),
        "format": "pt",
        "software": json.dumps({"name": "lorax", "form": "ai-toolkit"}),
        "ss_output_name": writing.stem,
    }
    return [EncodedFile(f"{writing.stem}.safetensors", tensors, metadata, hash_entry=WEIGHTS_HASH)]


DIALECT = Dialect(
    name="ai_toolkit",
    summary="Ostris' ai-toolkit",
    recognise=_recognise,
    split=_split,
    modules=_modules,
    strength=lambda _container: alpha_over_rank(),
    says=frozenset({"lora", "lokr"}),
    pack=_pack,
)
