"""diffusers: one file for a pipeline, module paths with the component before them, in the spellings since October 2023.

Today `unet.….to_q.lora_A.weight`; in October 2023 `unet.….to_q.lora.down.weight` and
`text_encoder.….q_proj.lora_linear_layer.down.weight`. scale = 1, unless the header holds peft's configuration as
`lora_adapter_metadata`, or, as files for diffusion transformers have it, an alpha lies beside the factors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lorax.dialect import (
    MARKED,
    SIGNED,
    Container,
    Dialect,
    EncodedFile,
    EncodedModule,
    Evidence,
    Strength,
    Writing,
    share_evidence,
    split_by_suffix,
)
from lorax.factors import for_file, with_magnitude_out
from lorax.flat_files import refuse_saved
from lorax.peft_config import PeftConfig, common_fields, parse_config, parse_json
from lorax.peft_folder import bias_beside, own_path, require_biased, require_one_kind
from lorax.pipeline_names import COMPONENTS, STARTS_WITH_COMPONENT, pipeline_modules
from lorax.suffixes import KOHYA, LYCORIS_ONLY, PEFT, endings_of, ends_with, joined
from lorax.written_metadata import spec_entries

if TYPE_CHECKING:
    from torch import Tensor

CONFIG_KEY = "lora_adapter_metadata"
_FILE_NAME = "pytorch_lora_weights.safetensors"
_SUFFIXES = {
    **PEFT,
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    **KOHYA,
    **LYCORIS_ONLY,
    ".magnitude": "magnitude_out",
}
# Wrappers of other libraries (torch.compile, DataParallel, peft) and the adapter's own name leak into saved names.
_WRAPPERS = re.compile(
    r"^(?:module\.|_orig_mod\.)+|(?<=\.)(?:_orig_mod|base_model\.model|base_layer)\."
    r"|\.default(?:_\d+)?(?=\.weight$|\.bias$|$)"
)
_ENDINGS = endings_of(_SUFFIXES)
# Parts of names of attention processors, which are another dialect.
_OLD = (".processor.", "_lora.")
# Files without a component: of a U-Net, and of the transformers whose names diffusers gave them.
_BARE = re.compile(
    r"((down_blocks|up_blocks|mid_block|conv_in|conv_out|time_embedding|transformer_blocks|single_transformer_blocks"
    r"|context_embedder|x_embedder|time_text_embed|condition_embedder)\b).*"
)


def _recognise(names: Sequence[str], metadata: Mapping[str, str]) -> Evidence | None:
    matching = sum(map(_is_part, names))
    if 2 * matching <= len(names) or any(part in name for part in _OLD for name in names):
        return None
    what = "are module paths of a pipeline with lora parts"
    if CONFIG_KEY in metadata:
        return share_evidence(names, matching, f"{what}, {CONFIG_KEY} is there", weight=SIGNED)
    named = any(STARTS_WITH_COMPONENT.fullmatch(_unwrapped(name)) for name in names)
    return share_evidence(names, matching, what, **({"weight": MARKED} if named else {}))


def _is_part(name: str) -> bool:
    bare = _unwrapped(name)
    placed = STARTS_WITH_COMPONENT.fullmatch(bare) or _BARE.fullmatch(bare)
    return placed is not None and ends_with(bare, _ENDINGS)


def _unwrapped(name: str) -> str:
    return _WRAPPERS.sub("", name)


def _split(name: str) -> tuple[str, str]:
    return split_by_suffix(_unwrapped(name), _SUFFIXES)


def _strength(container: Container) -> Strength:
    configs = _configs(container)

    def scale(spelling: str, rank: int, alpha: float | None) -> float:
        if alpha is not None:
            return alpha / rank if alpha and rank else 1.0
        component, _, path = spelling.partition(".")
        config = configs.get(component)
        return config.scale(path, rank) if config is not None else 1.0

    return scale


def _configs(container: Container) -> dict[str, PeftConfig]:
    """Peft's configuration of each component that the header describes: its keys start with the component."""
    text = container.file.metadata.get(CONFIG_KEY)
    if text is None:
        return {}
    fields = parse_json(text, where=container.name)
    by_component: dict[str, dict[str, object]] = {}
    for key, value in fields.items():
        component, _, field = key.partition(".")
        if component in COMPONENTS:
            by_component.setdefault(component, {})[field] = value
    return {name: parse_config(own, where=container.name) for name, own in by_component.items()}


def _pack(
    modules: Sequence[EncodedModule], vectors: Mapping[tuple[str, str], Tensor], writing: Writing
) -> Sequence[EncodedFile]:
    refuse_saved(writing, "diffusers")
    biases = require_biased(modules, vectors)
    tensors: dict[str, Tensor] = {}
    fields: dict[str, object] = {}
    for component in dict.fromkeys(module.module.component for module in modules):
        own = [module for module in modules if module.module.component == component]
        with_bias = any(module.spelling in biases for module in own)
        for module in own:
            more = bias_beside(module, biases.get(module.spelling)) if with_bias else {}
            stored = for_file({**with_magnitude_out(module), **more}, dtype=writing.dtype)
            tensors |= joined(module.spelling, stored, PEFT)
        # The configuration is matched against the model's own paths, which lack `text_model.` in newer versions.
        scales = {
            own_path(module.module.path, component, writing.base): (module.rank, module.scale or 0.0) for module in own
        }
        described = common_fields(scales, magnitudes=require_one_kind(own), biases=with_bias)
        fields |= {f"{component}.{key}": value for key, value in described.items()}
    metadata = {**spec_entries(writing), "format": "pt", CONFIG_KEY: json.dumps(fields, indent=2, sort_keys=True)}
    return [EncodedFile(_FILE_NAME, tensors, metadata)]


DIALECT = Dialect(
    name="diffusers",
    summary="diffusers' pipelines since October 2023",
    recognise=_recognise,
    split=_split,
    modules=pipeline_modules,
    strength=_strength,
    says=frozenset({"lora", "dora"}),
    pack=_pack,
)
