"""comfyui: what ComfyUI reads without a table, and diffusion-pipe, lightx2v and others write.

`diffusion_model.` and the module's path in the code of the model's makers, `text_encoders.<clip_l …>.transformer.` for
text encoders; `lora_A`/`lora_B` or `lora_down`/`lora_up`, an alpha where scale is not 1. Distilled models of Wan have
whole changes (`.diff`), biases (`.diff_b`) and norms beside their factors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lorax.dialect import (
    FITS,
    MARKED,
    Dialect,
    EncodedFile,
    EncodedModule,
    Evidence,
    Writing,
    split_by_suffix,
)
from lorax.factors import with_alpha
from lorax.flat_files import alpha_over_rank, refuse_saved
from lorax.native_names import DENOISER_PREFIX, NATIVE, native_modules, native_naming
from lorax.suffixes import KOHYA, LYCORIS_ONLY, PEFT, endings_of, ends_with, joined
from lorax.written_metadata import spec_entries

if TYPE_CHECKING:
    from torch import Tensor

_SUFFIXES = {**PEFT, **KOHYA, **LYCORIS_ONLY, ".diff": "diff", ".magnitude": "magnitude_out"}
_ADAPTER_NAME = re.compile(r"\.default(?=\.weight$|\.bias$|$)")
_VECTORS = {"bias_diff": ".diff_b", "weight_diff": ".diff"}
_ENDINGS = endings_of(_SUFFIXES, [".set_weight", ".reshape_weight"])
_PREFIXES = (DENOISER_PREFIX, "text_encoders.")


def _recognise(names: Sequence[str], _metadata: Mapping[str, str]) -> Evidence | None:
    parts = [name for name in names if ends_with(_ADAPTER_NAME.sub("", name), _ENDINGS)]
    prefixed = sum(name.startswith(_PREFIXES) for name in parts)
    bare = sum(NATIVE.fullmatch(name) is not None for name in parts)
    if 2 * (prefixed + bare) <= len(names):
        return None
    if prefixed:
        return Evidence(MARKED, f"{prefixed} of {len(names)} tensor names start with {' or '.join(_PREFIXES)}")
    return Evidence(FITS, f"{bare} of {len(names)} tensor names are paths in the code of a model's makers")


def _unmappable(_spelling: str, roles: frozenset[str]) -> str:
    if roles == {"diff_m"}:
        return "a change of a table of modulations, a parameter of no module; other programs leave it out as well"
    return ""


def _pack(
    modules: Sequence[EncodedModule], vectors: Mapping[tuple[str, str], Tensor], writing: Writing
) -> Sequence[EncodedFile]:
    refuse_saved(writing, "comfyui")
    tensors: dict[str, Tensor] = {}
    for module in modules:
        own, alpha = with_alpha(module, dtype=writing.dtype)
        if alpha is not None and float(alpha) != module.rank:
            own["alpha"] = alpha
        tensors |= joined(module.spelling, own, _SUFFIXES)
    for (spelling, role), vector in vectors.items():
        tensors[spelling + _VECTORS[role]] = vector.to(writing.dtype)
    metadata = {**spec_entries(writing, naming=native_naming(writing.base)), "format": "pt"}
    return [EncodedFile(f"{writing.stem}.safetensors", tensors, metadata)]


DIALECT = Dialect(
    name="comfyui",
    summary="ComfyUI's own names, of diffusion-pipe, lightx2v and others",
    recognise=_recognise,
    split=lambda name: split_by_suffix(_ADAPTER_NAME.sub("", name), _SUFFIXES),
    modules=native_modules,
    strength=lambda _container: alpha_over_rank(),
    unmappable=_unmappable,
    says=frozenset({"lora", "loha", "lokr", "full", "oft", "dora"}),
    pack=_pack,
)
