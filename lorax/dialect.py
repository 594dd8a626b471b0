"""What a dialect, one tool's way of spelling an adapter file, has to declare."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lorax.adapter import Adapter
from lorax.base_model import BaseModel
from lorax.naming import NamedModule

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lorax.weight_file import WeightFile

FITS, MARKED, SIGNED = 1, 2, 3
"""How strongly a file speaks a dialect: its names fit; only this tool spells them so; its metadata name the tool."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Tells how strongly a file speaks a dialect, FITS, MARKED or SIGNED, and by what."""

    weight: int
    words: str


@dataclass(frozen=True, slots=True, eq=False)
class Container:
    """Holds what is known of an adapter before its tensors are read: the checked file and the JSON beside it."""

    file: WeightFile
    config: Mapping[str, object] | None
    name: str


Strength = Callable[[str, int, float | None], float]
"""Gives the scale of a module from its spelling, its rank and its stored alpha (None where the file has none)."""


@dataclass(frozen=True, slots=True)
class Expansion:
    """Turns tensors that a tool stores in a compact form into those that algorithms know.

    shape(role, shape): what the expanded tensor's shape will be; tensor(role, tensor): the expanded tensor.
    """

    shape: Callable[[str, tuple[int, ...]], tuple[int, ...]]
    tensor: Callable[[str, Tensor], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class EncodedModule:
    """Is one module ready to be written: its spelling, what it is, its tensors by role, rank and scale.

    tensors: in the algorithm's own element type, alpha left out; scale: None for an algorithm without alpha.
    """

    spelling: str
    module: NamedModule
    algorithm: str
    tensors: Mapping[str, Tensor]
    rank: int
    scale: float | None


@dataclass(frozen=True, slots=True, eq=False)
class EncodedFile:
    """Is one weight file to be written: its name in the folder, tensors, metadata, and a JSON file beside it.

    hash_entry: the key of the metadata entry that will hold the sha256 of the weights, "" for none.
    """

    name: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    config_name: str = ""
    config: Mapping[str, object] = field(default_factory=dict)
    hash_entry: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Writing:
    """Holds what a dialect needs to name and describe the files: the adapter, its base, the stem, the element type."""

    adapter: Adapter
    base: BaseModel
    stem: str
    dtype: torch.dtype


Pack = Callable[[Sequence[EncodedModule], Mapping[tuple[str, str], "Tensor"], Writing], Sequence[EncodedFile]]
"""Gives the files of an adapter from its modules, its vectors by the owner's spelling and role, and their names."""


@dataclass(frozen=True, slots=True, eq=False)
class Dialect:
    """Describes how one tool spells adapter files.

    recognise(tensor names, metadata): the evidence that a file is of this dialect, None when there is none; the
    strongest evidence wins, and a file that two dialects claim equally is refused;
    split(tensor name): (the module as this dialect spells it, the tensor's role in it); a role that nobody knows is
    passed on as it is spelled;
    modules(base): every spelling of every module of a base, the one that is written first; two modules may share a
    spelling only if they are the same parts;
    strength(container): how alpha becomes a scale; raises BadFile for a broken configuration;
    respell(container): renames a module by what only the whole file tells, None when nothing has to be;
    expansion(container): how compact tensors unfold, None when they are stored as they are applied;
    unmappable(spelling, roles): why a module that the base does not have may be left out, "" when it may not;
    says: the algorithms that it has names for; pack(modules, vectors by owner's spelling and role, writing): the files,
    their metadata naming the base. pack is None for a dialect that is only read.
    """

    name: str
    summary: str
    recognise: Callable[[Sequence[str], Mapping[str, str]], Evidence | None]
    split: Callable[[str], tuple[str, str]]
    modules: Callable[[BaseModel], Iterable[tuple[str, NamedModule]]]
    strength: Callable[[Container], Strength]
    respell: Callable[[Container], Callable[[str], str] | None] = lambda _container: None
    expansion: Callable[[Container], Expansion | None] = lambda _container: None
    unmappable: Callable[[str, frozenset[str]], str] = lambda _spelling, _roles: ""
    says: frozenset[str] = frozenset()
    pack: (
        Callable[[Sequence[EncodedModule], Mapping[tuple[str, str], Tensor], Writing], Sequence[EncodedFile]] | None
    ) = None


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


def share_evidence(names: Sequence[str], matching: int, what: str, *, weight: int = FITS) -> Evidence | None:
    """Words the evidence that some of the names of a file look like a dialect's, None when none does."""
    return Evidence(weight, f"{matching} of {len(names)} tensor names {what}") if matching else None


def all_modules(base: BaseModel, *, first: str = "own", programs: bool = False) -> Iterable[NamedModule]:
    """Lists the modules of a base in every naming of its family, those of the naming called `first` before others.

    programs: in the family's program_namings too. A family without the first naming starts with its own; a base of no
    known family has its own names only.
    """
    from lorax.base_models import FAMILIES
    from lorax.naming import own_names

    family = FAMILIES.get(base.family)
    if family is None:
        yield from own_names(base)
        return
    namings = {**family.namings, **(family.program_namings if programs else {})}
    for name in sorted(namings, key=lambda name: (name != first, name != "own")):
        yield from namings[name](base)
