"""peft: one model's adapter, `base_model.model.….lora_A.weight`, its strength in the adapter_config.json beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lorax.adapter import Adapter, Site
from lorax.base_model import BaseModel
from lorax.dialect import Container, Dialect, EncodedFile, Strength, count_evidence, split_by_suffix
from lorax.errors import BadFile
from lorax.factors import factors_for_file
from lorax.peft_config import common_fields, parse_config

if TYPE_CHECKING:
    from torch import Tensor

_PREFIX = "base_model.model."
# Wrappers of other libraries, and the adapter's own name, leak into saved names.
_WRAPPERS = re.compile(r"\b(_orig_mod|base_layer)\.|^module\.")
_ADAPTER_NAME = re.compile(r"\.default(?=\.weight$|$)")
_SUFFIXES = {".lora_A.weight": "down", ".lora_B.weight": "up", ".lora_A": "down", ".lora_B": "up"}


def _recognise(names: Sequence[str]) -> str:
    matching = sum(name.startswith(_PREFIX) for name in names)
    return count_evidence(names, matching, f"start with {_PREFIX}")


def _split(name: str) -> tuple[str, str]:
    return split_by_suffix(_ADAPTER_NAME.sub("", _PREFIX + _bare(name)), _SUFFIXES)


def _bare(name: str) -> str:
    return _WRAPPERS.sub("", name.removeprefix(_PREFIX))


def _spellings(site: Site) -> tuple[str, ...]:
    paths = dict.fromkeys((site.path, site.path.removeprefix("text_model.")))
    # The first text encoder is the one that is saved on its own; a second has to be named.
    plain = paths if site.component in {"unet", "text_encoder"} else ()
    return tuple(f"{_PREFIX}{path}" for path in (*plain, *(f"{site.component}.{path}" for path in paths)))


def _strength(container: Container) -> Strength:
    if container.config is None:
        message = "there is no adapter_config.json, so the strength of the adapter is unknown; fetch it as well"
        raise BadFile("bad-config", message, where=container.name)
    config = parse_config(container.config, where=container.name)

    def scale(spelling: str, rank: int, _alpha: float | None) -> float:
        return config.scale(spelling.removeprefix(_PREFIX), rank)

    return scale


def _encode(adapter: Adapter, base: BaseModel, stem: str) -> Sequence[EncodedFile]:
    """One folder per component where there are several, as peft's own example for Stable Diffusion saves them."""
    del stem
    components = sorted({site.component for site in adapter.updates})
    return [
        _encode_component(adapter, base, component, folder=f"{component}/" if len(components) > 1 else "")
        for component in components
    ]


def _encode_component(adapter: Adapter, base: BaseModel, component: str, *, folder: str) -> EncodedFile:
    tensors: dict[str, Tensor] = {}
    scales: dict[str, tuple[int, float]] = {}
    for site, update in adapter.updates.items():
        if site.component != component:
            continue
        # transformers' CLIPTextModel has lost its `text_model.` level, and peft asks for the model's own paths.
        module = site.path.removeprefix("text_model.") if component == "text_encoder" else site.path
        up, down = factors_for_file(update, dtype=adapter.dtype)
        tensors[f"{_PREFIX}{module}.lora_A.weight"] = down
        tensors[f"{_PREFIX}{module}.lora_B.weight"] = up
        scales[module] = (update.rank, update.scale)
    named = next((label for label in base.labels if "/" in label), base.name)
    return EncodedFile(
        name=f"{folder}adapter_model.safetensors",
        tensors=tensors,
        metadata={"format": "pt"},
        config_name=f"{folder}adapter_config.json",
        config={**common_fields(scales), "base_model_name_or_path": named},
    )


DIALECT = Dialect(
    name="peft",
    summary="peft's folders: adapter_model.safetensors with adapter_config.json",
    recognise=_recognise,
    split=_split,
    spellings=_spellings,
    strength=_strength,
    encode=_encode,
)
