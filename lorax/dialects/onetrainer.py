"""onetrainer: OneTrainer's forms, told by ot_branch in the header; the one of all its versions is written.

Until July 2026 diffusers' split names, flattened: `lora_unet_…`, `lora_transformer_…`, `lora_te1_…` with lora_down,
lora_up and alpha. Its text encoders are numbered in their own order: T5 of Flux is the second here and the third of
sd-scripts, so a number decides only where two encoders have the same names. Newer versions also write the paths of a
model's own code without a prefix, the names of diffusers, kohya and ComfyUI, and OMI's (`transformer.…qkv.0`, the parts
of fused weights by number). DoRA's magnitude is per input or per output, as its shape says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from lorax.base_model import BaseModel
from lorax.bundled import bundled_token, why_bundled
from lorax.dialect import (
    MARKED,
    SIGNED,
    Dialect,
    EncodedFile,
    EncodedModule,
    Evidence,
    Writing,
    all_modules,
    split_by_suffix,
)
from lorax.flat_files import alpha_over_rank, refuse_saved, refuse_vectors, tensors_with_alpha
from lorax.flat_names import NAME, ONETRAINER_PREFIXES, flat, flat_modules, spelled_paths, split_flat, trainer_of
from lorax.naming import NamedModule, Part, own_names
from lorax.native_names import encoder_names, native_modules, native_naming
from lorax.pipeline_names import DENOISERS, pipeline_modules
from lorax.suffixes import LYCORIS, PEFT
from lorax.written_metadata import spec_entries

if TYPE_CHECKING:
    from torch import Tensor

_SUFFIXES = {**LYCORIS, ".oft_R.weight": "oft_r"}
_DOTTED = {**PEFT, **_SUFFIXES}
_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4")
_DENOISERS = {
    "unet": ("lora_unet_",),
    "transformer": ("lora_transformer_", "lora_unet_"),
    "prior": ("lora_prior_unet_",),
}
_OMI_ENCODERS = {"t5xxl": "t5", "umt5xxl": "t5"}


def _recognise(names: Sequence[str], metadata: Mapping[str, str]) -> Evidence | None:
    if not names:
        return None
    if trainer_of(metadata) == "onetrainer":
        known = sum(_split(name)[1] in _DOTTED.values() or bundled_token(name) is not None for name in names)
        words = f"ot_branch is {metadata.get('ot_branch', '')!r}, {known} of {len(names)} tensors have roles it writes"
        return Evidence(SIGNED, words) if 2 * known > len(names) else None
    own = sum(name.startswith(ONETRAINER_PREFIXES) for name in names)
    flat_ones = sum(NAME.fullmatch(name) is not None or bundled_token(name) is not None for name in names)
    if not own or 2 * (own + flat_ones) <= len(names):
        return None
    return Evidence(MARKED, f"{own} of {len(names)} tensor names start with {' or '.join(ONETRAINER_PREFIXES)}")


def _split(name: str) -> tuple[str, str]:
    if (token := bundled_token(name)) is not None:
        return token
    if NAME.fullmatch(name) or name.startswith(ONETRAINER_PREFIXES):
        return split_flat(name, _SUFFIXES)
    return split_by_suffix(name, _DOTTED)


def _modules(base: BaseModel) -> Iterator[tuple[str, NamedModule]]:
    components = {site.component for site in base.sites}
    alone = _ENCODERS[1] not in components
    own = {name: ("lora_te_",) if alone else (f"lora_te{number}_",) for number, name in enumerate(_ENCODERS, 1)}
    yield from flat_modules(base, first="own", prefixes={**_DENOISERS, **own})
    yield from _encoders_by_any_number(base)
    yield from pipeline_modules(base)
    yield from native_modules(base)
    yield from _omi_modules(base)


def _encoders_by_any_number(base: BaseModel) -> Iterator[tuple[str, NamedModule]]:
    """The modules of text encoders whose names no other encoder has, under every number."""
    owners: dict[str, set[str]] = {}
    modules = [module for module in own_names(base) if module.component in _ENCODERS]
    for module in modules:
        owners.setdefault(module.path, set()).add(module.component)
    for module in modules:
        if len(owners[module.path]) == 1:
            for path in spelled_paths(module):
                for number in range(1, len(_ENCODERS) + 1):
                    yield f"lora_te{number}_{flat(path)}", module


def _omi_modules(base: BaseModel) -> Iterator[tuple[str, NamedModule]]:
    encoders = encoder_names(base)
    for module in all_modules(base, first=native_naming(base)):
        if module.component in encoders:
            name = encoders[module.component]
            yield f"{_OMI_ENCODERS.get(name, name)}.{module.path}", module
        elif module.component not in DENOISERS:
            continue  # OneTrainer has no language models
        elif len(module.parts) > 1:
            for number, part in enumerate(module.parts):
                path = f"{module.path}.{number}"
                alone = (Part(part.site, swapped=part.swapped),)
                yield f"{module.component}.{path}", NamedModule(module.component, path, alone, base.sites[part.site])
        elif module.path == "img_in":
            yield f"{module.component}.img_in.proj", module


def _unmappable(spelling: str, _roles: frozenset[str]) -> str:
    if spelling.endswith("_text_projection"):
        return "the base model has no text projection, so this part had no effect on it"
    return why_bundled(spelling)


def _pack(
    modules: Sequence[EncodedModule], vectors: Mapping[tuple[str, str], Tensor], writing: Writing
) -> Sequence[EncodedFile]:
    refuse_vectors(vectors, "onetrainer")
    refuse_saved(writing, "onetrainer")
    tensors = tensors_with_alpha(modules, writing, _SUFFIXES)
    metadata = {**spec_entries(writing), "ot_branch": "lorax"}
    return [EncodedFile(f"{writing.stem}.safetensors", tensors, metadata)]


DIALECT = Dialect(
    name="onetrainer",
    summary="OneTrainer, all its output forms",
    recognise=_recognise,
    split=_split,
    modules=_modules,
    strength=lambda _container: alpha_over_rank(),
    unmappable=_unmappable,
    says=frozenset({"lora", "loha", "dora", "oft_packed"}),
    pack=_pack,
)
