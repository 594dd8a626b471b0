"""What a dialect, one tool's way of spelling an adapter file, has to declare."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lorax.adapter import Adapter, Site
from lorax.base_model import BaseModel

if TYPE_CHECKING:
    from torch import Tensor

    from lorax.weight_file import WeightFile


@dataclass(frozen=True, slots=True, eq=False)
class Container:
    """Holds what is known of an adapter before its tensors are read: the checked file and the JSON beside it."""

    file: WeightFile
    config: Mapping[str, object] | None
    name: str


Strength = Callable[[str, int, float | None], float]
"""Gives the scale of a module from its spelling, its rank and its stored alpha (None where the file has none)."""


@dataclass(frozen=True, slots=True, eq=False)
class EncodedFile:
    """Is one weight file to be written: its name in the folder, tensors, metadata, and a JSON file beside it."""

    name: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    config_name: str = ""
    config: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Dialect:
    """Describes how one tool spells adapter files.

    recognise(tensor names): the evidence that a file is of this dialect, "" when there is none; a file that two
    dialects recognise is refused, so the evidence has to be sharp;
    split(tensor name): (the module as this dialect spells it, the tensor's role in it); a role that no algorithm knows
    is passed on as it is spelled;
    spellings(site): every spelling of a site that occurs in files; no two sites of a base may share one;
    strength(container): how alpha becomes a scale; raises BadFile for a broken configuration;
    unmappable(spelling): why a module that the base does not have may be left out, "" when it may not;
    encode(adapter, base, stem): the files that hold the adapter, their metadata naming the base.
    """

    name: str
    summary: str
    recognise: Callable[[Sequence[str]], str]
    split: Callable[[str], tuple[str, str]]
    spellings: Callable[[Site], tuple[str, ...]]
    strength: Callable[[Container], Strength]
    encode: Callable[[Adapter, BaseModel, str], Sequence[EncodedFile]]
    unmappable: Callable[[str], str] = lambda _spelling: ""


def split_by_suffix(name: str, suffixes: Mapping[str, str]) -> tuple[str, str]:
    """Splits a tensor name into module and role by the first suffix that fits, else at its first foreign part.

    suffixes: suffix -> role, in the order in which they are tried.
    """
    for suffix, role in suffixes.items():
        if name.endswith(suffix):
            return name[: -len(suffix)], role
    module, _, role = name.rpartition(".")
    if role in {"weight", "bias", "default"} and "." in module:
        # `….lora_magnitude_vector.weight`: the part before is the telling one.
        outer, _, inner = module.rpartition(".")
        if inner.startswith(("lora_", "oft_", "q_", "p_")):
            return outer, f"{inner}.{role}"
    return module, role


def count_evidence(names: Sequence[str], matching: int, what: str) -> str:
    """Words the evidence that some of the names of a file look like a dialect's, "" when none does."""
    return f"{matching} of {len(names)} tensor names {what}" if matching else ""
