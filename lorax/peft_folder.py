"""Writes peft's folders: weights, and the adapter_config.json that peft needs to build the same layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from lorax.adapter import Site
from lorax.base_model import BaseModel
from lorax.dialect import EncodedFile, EncodedModule, Writing
from lorax.errors import Unsupported
from lorax.factors import for_file, with_magnitude_out
from lorax.peft_config import common_fields
from lorax.peft_parameters import nested_name
from lorax.suffixes import PEFT, joined
from lorax.written_metadata import spec_entries

if TYPE_CHECKING:
    from torch import Tensor

COMPONENT_KEY = "lorax.component"
"""Header entry that tells the component where two of a pipeline have the same names."""
_KNOWN_BY_NAME = frozenset({"model", "unet", "transformer", "text_encoder"})


def peft_folders(
    modules: Sequence[EncodedModule], vectors: Mapping[tuple[str, str], Tensor], writing: Writing, *, prefix: str
) -> list[EncodedFile]:
    """Gives one folder per component where there are several, as peft's own example for Stable Diffusion saves them.

    Raises Unsupported("unwritable") for what peft's LoRA has no word for.
    """
    biases = require_biased(modules, vectors)
    components = sorted({module.module.component for module in modules}) or ["model"]
    files = []
    for component in components:
        own = [module for module in modules if module.module.component == component]
        folder = f"{component}/" if len(components) > 1 else ""
        saved = writing.adapter.saved if component == components[0] else {}
        files.append(_folder(own, biases, saved, writing, component=component, prefix=prefix, folder=folder))
    return files


def own_path(path: str, component: str, base: BaseModel) -> str:
    """Gives a path as the model's own class has it today: transformers' CLIPTextModel has lost its `text_model.`."""
    plain_clip = component.startswith("text_encoder") and Site(component, "text_projection") not in base.sites
    return path.removeprefix("text_model.") if plain_clip else path


def require_one_kind(modules: Sequence[EncodedModule]) -> bool:
    """Tells whether the modules have magnitudes (DoRA). Raises Unsupported when only some of them do."""
    without = [module for module in modules if "magnitude" not in module.tensors]
    if 0 < len(without) < len(modules):
        message = f"peft has DoRA for all modules or for none, and {without[0].module.path} has no magnitude"
        raise Unsupported("unwritable", message)
    return bool(modules) and not without


def bias_beside(module: EncodedModule, bias: Tensor | None) -> dict[str, Tensor]:
    """Gives `lora_bias` for a module, zeros where its bias does not change: peft multiplies it by the scale."""
    if module.algorithm != "lora":
        message = f"peft has biases beside LoRA of layers only, not beside {module.algorithm} of {module.module.path}"
        raise Unsupported("unwritable", message)
    rows = module.tensors["up"].shape[0]
    return {"lora_bias": torch.zeros(rows) if bias is None else bias / (module.scale or 1.0)}


def require_biased(modules: Sequence[EncodedModule], vectors: Mapping[tuple[str, str], Tensor]) -> dict[str, Tensor]:
    """Gives the changes of biases by spelling. Raises Unsupported for other vectors, and for those without factors."""
    patched = {module.spelling for module in modules if module.scale}
    for spelling, role in vectors:
        if role != "bias_diff" or spelling not in patched:
            message = f"peft has no word for the changed {role.partition('_')[0]} of {spelling!r} without factors"
            raise Unsupported("unwritable", message)
    return {spelling: vector for (spelling, _), vector in vectors.items()}


def _folder(
    modules: Sequence[EncodedModule],
    biases: Mapping[str, Tensor],
    saved: Mapping[str, Tensor],
    writing: Writing,
    *,
    component: str,
    prefix: str,
    folder: str,
) -> EncodedFile:
    with_bias = any(module.spelling in biases for module in modules)
    tensors: dict[str, Tensor] = dict(saved)
    scales: dict[str, tuple[int, float]] = {}
    for module in modules:
        path = own_path(module.module.path, component, writing.base)
        more = bias_beside(module, biases.get(module.spelling)) if with_bias else {}
        own = for_file({**with_magnitude_out(module), **more}, dtype=writing.dtype)
        tensors |= joined(prefix + _name(path, module, modules), own, PEFT)
        # The factors of stacked experts have the rank of all experts together.
        rank = module.rank // len(module.module.parts) if module.module.experts else module.rank
        scales[path] = (rank, 1.0 if module.scale is None else module.scale)
    experts = [own_path(module.module.path, component, writing.base) for module in modules if module.module.experts]
    fields = common_fields(scales, magnitudes=require_one_kind(modules), biases=with_bias)
    named = next((label for label in writing.base.labels if "/" in label), writing.base.name)
    whole = {name.removeprefix(prefix).removesuffix(".weight").removesuffix(".bias") for name in saved}
    return EncodedFile(
        name=f"{folder}adapter_model.safetensors",
        tensors=tensors,
        metadata={
            **spec_entries(writing),
            "format": "pt",
            **({} if component in _KNOWN_BY_NAME else {COMPONENT_KEY: component}),
        },
        config_name=f"{folder}adapter_config.json",
        config={
            **fields,
            **({"target_modules": sorted(scales.keys() - set(experts))} if experts else {}),
            **({"target_parameters": sorted(experts)} if experts else {}),
            **({"modules_to_save": sorted(whole)} if whole else {}),
            "base_model_name_or_path": named,
            **({"task_type": "CAUSAL_LM"} if _writes_text(component, writing.base) else {}),
        },
    )


def _writes_text(component: str, base: BaseModel) -> bool:
    """Tells whether the component is a decoder language model, which peft opens by another class when told so."""
    return Site(component, "model.embed_tokens") in base.tables


def _name(path: str, module: EncodedModule, modules: Sequence[EncodedModule]) -> str:
    if not module.module.experts:
        return path
    around, _, parameter = path.rpartition(".")
    written = [
        other.module.path.rpartition(".")[2]
        for other in modules
        if other.module.experts and other.module.path.rpartition(".")[0] == around
    ]
    return nested_name(around, parameter, written)
