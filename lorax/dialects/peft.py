"""peft: one model's adapter, `base_model.model.….lora_A.weight`, its strength in the adapter_config.json beside it.

Beside LoRA the names of peft's LoHa, LoKr, IA3, OFT and BOFT are read. What peft saves whole (modules_to_save, grown
embeddings) has an ordinary parameter's name. target_parameters, LoRA of the experts that are stacked in one parameter,
has the name of the module around the parameter: `….experts.lora_A.weight`, and for each further parameter of that
module a `base_layer` more; which parameter is meant follows from the configuration.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from lorax.base_model import BaseModel
from lorax.dialect import (
    FITS,
    Container,
    Dialect,
    EncodedFile,
    EncodedModule,
    Evidence,
    Expansion,
    Strength,
    Writing,
    all_modules,
    share_evidence,
    split_by_suffix,
)
from lorax.errors import BadFile
from lorax.flat_names import spelled_paths
from lorax.grouped_columns import grouped_columns
from lorax.naming import NamedModule
from lorax.peft_config import PeftConfig, parse_config
from lorax.peft_folder import COMPONENT_KEY, peft_folders
from lorax.peft_parameters import parameter_respelling
from lorax.suffixes import PEFT

if TYPE_CHECKING:
    from torch import Tensor

_PREFIX = "base_model.model."
# Wrappers of other libraries, and the adapter's own name, leak into saved names. A `base_layer` at the end may tell
# which parameter of a module is meant, so that one stays.
_WRAPPERS = re.compile(
    r"\b(_orig_mod|modules_to_save\.default|original_module)\.|\bbase_layer\.(?=\w+\.\w+\.)|^module\."
)
_BEFORE_PREFIX = re.compile(r"(?:module\.|_orig_mod\.)+(?=base_model\.model\.)")
_ADAPTER_NAME = re.compile(r"\.default(?=\.weight$|\.bias$|$)")
_FURTHER = {f".{role}": role for role in (
    "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", "lokr_w1", "lokr_w1_a", "lokr_w1_b",
    "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2", "ia3_l", "boft_R", "boft_s",
)}  # fmt: skip
_SUFFIXES = {
    **PEFT,
    **{suffix: role.lower() for suffix, role in _FURTHER.items()},
    ".oft_R.weight": "oft_r",
    # Before version 0.16 the blocks were not packed.
    ".oft_r": "oft_unpacked",
}
_COPY = "copy"
# fal's trainer for Flux Kontext saves peft's names before those of Black Forest Labs, alone and with scale 1.
_OF_FAL = re.compile(r"base_model\.model\.(double_blocks|single_blocks|img_in|txt_in|final_layer)\b")
_TUNER_PART = re.compile(
    r"\.(lora|hada|lokr|oft|boft|ia3|vera|randlora|fourierft|waveft|shira|miss|bone|road|hra|vblora|ln_tuning|c3a|poly"
    r"|gralora|delora|osf|token_adapter|internal_xlora|xlora|trainable_tokens|adaption|prompt)_?\w*"
)
# The text encoders of Stable Diffusion are plain CLIP; the wider one is the second of SDXL and SD3.
_CLIP_QUERY = re.compile(r"(?:text_model\.)?encoder\.layers\.\d+\.(?:self_attn\.\w+|mlp\.fc2)")
_SECOND_CLIP_WIDTH = 1280


def _recognise(names: Sequence[str], _metadata: Mapping[str, str]) -> Evidence | None:
    matching = sum(_BEFORE_PREFIX.sub("", name, count=1).startswith(_PREFIX) for name in names)
    return share_evidence(names, matching, f"start with {_PREFIX}", weight=FITS)


def _split(name: str) -> tuple[str, str]:
    inner = _BEFORE_PREFIX.sub("", name, count=1).removeprefix(_PREFIX)
    bare = _ADAPTER_NAME.sub("", _WRAPPERS.sub("", inner))
    module, role = split_by_suffix(_PREFIX + bare, _SUFFIXES)
    if name.endswith(".base_layer.weight"):
        return _PREFIX + inner, _COPY
    if role in {"weight", "bias"} and _TUNER_PART.search(f".{bare}") is None:
        return _PREFIX + bare, "saved"
    return module, role


def _unmappable(_spelling: str, roles: frozenset[str]) -> str:
    return "a copy of the base model's own weight, which peft saves beside LoRA of it" if roles == {_COPY} else ""


def _modules(base: BaseModel) -> Iterator[tuple[str, NamedModule]]:
    """The first of two components with equal names has them plain, such as the first of two CLIP text encoders."""
    owners: dict[str, str] = {}
    for module in all_modules(base):
        for path in spelled_paths(module):
            if owners.setdefault(path, module.component) == module.component:
                yield _PREFIX + path, module
            yield f"{_PREFIX}{module.component}.{path}", module


def _config(container: Container) -> PeftConfig:
    if container.config is None:
        message = "there is no adapter_config.json, so the strength of the adapter is unknown; fetch it as well"
        raise BadFile("bad-config", message, where=container.name)
    return parse_config(container.config, where=container.name)


def _strength(container: Container) -> Strength:
    if container.config is None and all(map(_OF_FAL.match, container.file.tensors)):
        return lambda _spelling, _rank, _alpha: 1.0
    config = _config(container)

    def scale(spelling: str, rank: int, _alpha: float | None) -> float:
        module = spelling.removeprefix(_PREFIX)
        # The factors of stacked experts have the rank of all experts together.
        stacked = any(module == name or module.endswith(f".{name}") for name in config.parameters)
        return config.scale(module, config.rank_of(module) if stacked else rank)

    return scale


def _respell(container: Container) -> Callable[[str], str]:
    config = parse_config(container.config, where=container.name) if container.config is not None else None
    named = parameter_respelling(config.parameters if config is not None else ())
    component = container.file.metadata.get(COMPONENT_KEY) or _second_clip(container)

    def spelled(spelling: str) -> str:
        bare = named(spelling.removeprefix(_PREFIX))
        if component and not bare.startswith(f"{component}."):
            bare = f"{component}.{bare}"
        return _PREFIX + bare

    return spelled


def _second_clip(container: Container) -> str:
    """The component that a file of plain CLIP names is for when only the second text encoder is that wide."""
    for name, entry in container.file.tensors.items():
        spelling, role = _split(name)
        if role == "up" and _CLIP_QUERY.fullmatch(spelling.removeprefix(_PREFIX)):
            return "text_encoder_2" if entry.shape[0] == _SECOND_CLIP_WIDTH else ""
    return ""


def _expansion(container: Container) -> Expansion | None:
    config = parse_config(container.config, where=container.name) if container.config is not None else None
    return grouped_columns(config.group) if config is not None and config.group else None


def _pack(
    modules: Sequence[EncodedModule], vectors: Mapping[tuple[str, str], Tensor], writing: Writing
) -> Sequence[EncodedFile]:
    return peft_folders(modules, vectors, writing, prefix=_PREFIX)


DIALECT = Dialect(
    name="peft",
    summary="peft's folders: adapter_model.safetensors with adapter_config.json",
    recognise=_recognise,
    split=_split,
    modules=_modules,
    strength=_strength,
    respell=_respell,
    expansion=_expansion,
    unmappable=_unmappable,
    says=frozenset({"lora", "lora_embedding", "dora"}),
    pack=_pack,
)
