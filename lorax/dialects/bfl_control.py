"""bfl_control: Black Forest Labs' own LoRA files for Flux, Canny and Depth. Only read.

Paths of their code without anything before them, `lora_A`/`lora_B` with a bias (`lora_B.bias`), scale = 1. The norms of
queries and keys are not changed but replaced (`….query_norm.scale`): they are carried apart. img_in has twice the
inputs of Flux dev, so the files fit the control models only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from lorax.base_model import BaseModel
from lorax.dialect import MARKED, Dialect, Evidence, all_modules, share_evidence, split_by_suffix
from lorax.naming import NamedModule
from lorax.suffixes import PEFT

_NORM = re.compile(r".+\.(query|key)_norm\.scale")
_NAME = re.compile(
    r"((double_blocks|single_blocks)\.\d+|img_in|txt_in|time_in|vector_in|guidance_in|final_layer)\b.*"
    r"(\.lora_A\.weight|\.lora_B\.(weight|bias)|_norm\.scale)"
)
_MARK = re.compile(r".+\.lora_B\.bias|" + _NORM.pattern)


def _recognise(names: Sequence[str], _metadata: Mapping[str, str]) -> Evidence | None:
    matching = sum(_NAME.fullmatch(name) is not None for name in names)
    marked = any(_MARK.fullmatch(name) for name in names)
    if 2 * matching <= len(names) or not marked:
        return None
    return share_evidence(names, matching, "are paths of Flux' own code with biases or norms", weight=MARKED)


def _split(name: str) -> tuple[str, str]:
    return (name, "saved") if _NORM.fullmatch(name) else split_by_suffix(name, PEFT)


def _modules(base: BaseModel) -> Iterator[tuple[str, NamedModule]]:
    for module in all_modules(base, first="original"):
        if module.component == "transformer":
            yield module.path, module


DIALECT = Dialect(
    name="bfl_control",
    summary="Black Forest Labs' Canny and Depth LoRA for Flux",
    recognise=_recognise,
    split=_split,
    modules=_modules,
    strength=lambda _container: lambda _spelling, _rank, _alpha: 1.0,
)
