"""diffusers: one file for a pipeline, module paths with the component before them, in the spellings of 2023 to today.

Today `unet.….to_q.lora_A.weight`; October 2023 `unet.….to_q.lora.down.weight` and
`text_encoder.….q_proj.lora_linear_layer.down.weight`; before `….attn1.processor.to_q_lora.down.weight`, at first
without the component. scale = 1, unless the header holds peft's configuration as `lora_adapter_metadata`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from lorax.adapter import Adapter, Site
from lorax.base_model import BaseModel
from lorax.base_models import spoken_version
from lorax.dialect import Container, Dialect, EncodedFile, Strength, count_evidence, split_by_suffix
from lorax.factors import factors_for_file
from lorax.peft_config import PeftConfig, common_fields, parse_config, parse_json

if TYPE_CHECKING:
    from torch import Tensor

CONFIG_KEY = "lora_adapter_metadata"
_FILE_NAME = "pytorch_lora_weights.safetensors"
_COMPONENTS = ("unet", "text_encoder", "text_encoder_2")
_SUFFIXES = {
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".down.weight": "down",
    ".up.weight": "up",
    ".alpha": "alpha",
}
# The two last suffixes belong to `to_q_lora.down.weight`, where the module's own name ends in _lora.
_NAME = re.compile(
    r"((unet|text_encoder|text_encoder_2)\.|(down_blocks|up_blocks|mid_block|conv_in|conv_out|time_embedding)\b)"
    r".*(\.lora_[A-Za-z]|\.lora\.|\.lora_linear_layer\.|_lora\.(down|up)\.).*"
)
_ATTENTION = re.compile(r"(.*\.(?:attn\d|self_attn))\.(to_[qkv]|to_out\.0|[qkv]_proj|out_proj)")


def _recognise(names: Sequence[str]) -> str:
    matching = sum(_NAME.fullmatch(name) is not None for name in names)
    return count_evidence(names, matching, "are module paths of a pipeline with lora parts")


def _split(name: str) -> tuple[str, str]:
    return split_by_suffix(name, _SUFFIXES)


def _spellings(site: Site) -> tuple[str, ...]:
    paths = dict.fromkeys((site.path, site.path.removeprefix("text_model.")))
    found = [spelling for path in paths for spelling in _paths_of_all_years(path)]
    bare = found if site.component == "unet" else []
    return tuple(f"{site.component}.{path}" for path in found) + tuple(bare)


def _paths_of_all_years(path: str) -> Iterator[str]:
    yield path
    match = _ATTENTION.fullmatch(path)
    if match is None:
        return
    attention, projection = match.groups()
    # 2023 files call the text encoder's projections by the U-Net's names: to_q for q_proj.
    short = projection[0] if projection.endswith("_proj") and projection != "out_proj" else projection
    old = {"to_out.0": "to_out", "out_proj": "to_out"}.get(projection, f"to_{short.removeprefix('to_')}")
    if projection == "to_out.0":
        yield f"{attention}.to_out"
    yield f"{attention}.processor.{old}_lora"
    yield f"{attention}.{old}_lora"


def _strength(container: Container) -> Strength:
    configs = _configs(container)

    def scale(spelling: str, rank: int, alpha: float | None) -> float:
        if alpha is not None:
            return alpha / rank if alpha else 1.0
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
        if component in _COMPONENTS:
            by_component.setdefault(component, {})[field] = value
    return {name: parse_config(own, where=container.name) for name, own in by_component.items()}


def _encode(adapter: Adapter, base: BaseModel, stem: str) -> Sequence[EncodedFile]:
    tensors: dict[str, Tensor] = {}
    scales: dict[str, dict[str, tuple[int, float]]] = {}
    for site, update in adapter.updates.items():
        up, down = factors_for_file(update, dtype=adapter.dtype)
        tensors[f"{site.component}.{site.path}.lora_A.weight"] = down
        tensors[f"{site.component}.{site.path}.lora_B.weight"] = up
        # The configuration is matched against the model's own paths, which lack `text_model.` in newer versions.
        module = site.path.removeprefix("text_model.")
        scales.setdefault(site.component, {})[module] = (update.rank, update.scale)
    return [EncodedFile(_FILE_NAME, tensors, _metadata(adapter, base, stem, scales))]


def _metadata(
    adapter: Adapter, base: BaseModel, stem: str, scales: Mapping[str, Mapping[str, tuple[int, float]]]
) -> dict[str, str]:
    fields = {
        f"{component}.{key}": value for component, own in scales.items() for key, value in common_fields(own).items()
    }
    kept = {key: value for key, value in adapter.metadata.items() if key.startswith("modelspec.")}
    return {
        "modelspec.title": stem,
        **kept,
        "format": "pt",
        "modelspec.architecture": f"{spoken_version(base)[1]}/lora",
        CONFIG_KEY: json.dumps(fields, indent=2, sort_keys=True),
    }


DIALECT = Dialect(
    name="diffusers",
    summary="diffusers' pipelines, 2023 to today",
    recognise=_recognise,
    split=_split,
    spellings=_spellings,
    strength=_strength,
    encode=_encode,
)
