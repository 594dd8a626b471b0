"""What a quantisation, a way of keeping weights in fewer bits, has to declare; and which tensors are one weight.

A quantised weight lies in several tensors beside each other: `q_proj.qweight`, `q_proj.scales` … Their last parts are
their roles. What is read here is always the weight itself, float32, of the shape that it had before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from lorax.errors import Stop
from lorax.inventories.known import read_config
from lorax.stored import Plain, Quantised, Stored

if TYPE_CHECKING:
    from torch import Tensor

Settings = Mapping[str, object]
"""The table `quantization_config` of a configuration, {} where there is none."""
Shapes = Callable[[Mapping[str, Plain], Settings], tuple[int, ...]]
Decoder = Callable[[Mapping[str, "Tensor"], Settings, tuple[int, ...]], "Tensor"]

_WHOLE_NUMBERS = frozenset({"I64", "I32", "I16", "I8", "U8", "BOOL"})
_INSTEAD = "give the base model without quantisation"


class Misfit(ValueError):  # noqa: N818 - a reason, which whoever catches it puts into words
    """Says why the tensors of a quantised weight do not fit each other, or what of them is not read here."""


def _no_shape(_tensors: Mapping[str, Plain], _settings: Settings) -> tuple[int, ...]:
    raise NotImplementedError


def _no_decoder(_tensors: Mapping[str, Tensor], _settings: Settings, _shape: tuple[int, ...]) -> Tensor:
    raise NotImplementedError


@dataclass(frozen=True, slots=True, eq=False)
class Quantisation:
    """Describes one way of quantising weights.

    methods: how configurations spell it (`quant_method`); refusal: why its weights are not read, "" when they are, and
    the rest is not used then;
    required, optional: the roles of a weight's tensors; marks: the roles of which a weight has at least one, all the
    required ones where none are given; heeds: the settings that say what the numbers mean;
    shape(tensors by role, settings): of the weight before it was quantised; raises Misfit;
    decode(raw tensors by role, settings, shape): the weight, float32, of that shape; raises Misfit;
    needs_settings: the tensors alone do not tell what they mean;
    why_not(settings): why a kind of it is not read, "" when it is.
    """

    name: str
    summary: str
    methods: frozenset[str]
    reference: str = ""
    refusal: str = ""
    required: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    marks: frozenset[str] = frozenset()
    heeds: frozenset[str] = frozenset()
    shape: Shapes = field(default=_no_shape)
    decode: Decoder = field(default=_no_decoder)
    needs_settings: bool = False
    why_not: Callable[[Settings], str] = field(default=lambda _settings: "")

    @property
    def roles(self) -> frozenset[str]:
        """Gives all roles of a weight's tensors."""
        return self.required | self.optional | self.marks

    def claims(self, roles: frozenset[str]) -> bool:
        """Tells whether tensors in these roles are a weight of this kind."""
        marked = bool(roles & self.marks) if self.marks else True
        return not self.refusal and marked and self.required <= roles <= self.roles


def settings_beside(folder: Path) -> Settings:
    """Reads what a folder says about the quantisation of its weights, {} where it says nothing."""
    found = read_config(folder / "config.json").get("quantization_config")
    if isinstance(found, dict):
        return found
    for name, method in (("quantize_config.json", "gptq"), ("quant_config.json", "awq")):
        if old := read_config(folder / name):
            return {"quant_method": method, **old}
    return {}


def join_quantised(tensors: Mapping[str, Plain], settings: Settings, *, where: str) -> dict[str, Stored]:
    """Gives the parameters that tensors are, by name; those of a quantised weight become one, called `….weight`.

    Raises Stop, naming the quantisation, for one that is not read here and for tensors that fit none.
    """
    from lorax.quantisations import QUANTISATIONS

    method = str(settings.get("quant_method", ""))
    spoken = [one for one in QUANTISATIONS.values() if method in one.methods]
    _refuse_method(method, spoken, settings, where)
    quantised = _quantised_modules(tensors, QUANTISATIONS)
    taken = {plain.entry.name for roles in quantised.values() for plain in roles.values()}
    found: dict[str, Stored] = {name: plain for name, plain in tensors.items() if plain.entry.name not in taken}
    for module, roles in quantised.items():
        place = f"{where}: {module}"
        claiming = [one for one in spoken or QUANTISATIONS.values() if one.claims(frozenset(roles))]
        one = _choose(claiming, roles, place, told=bool(spoken))
        try:
            found[f"{module}.weight"] = Quantised(one, roles, settings, one.shape(roles, settings))
        except Misfit as problem:
            raise Stop(f"{place}: a weight quantised by {one.name}, but {problem}; {_INSTEAD}") from None
    _refuse_whole_numbers(found, method, where)
    return found


def _refuse_method(method: str, spoken: list[Quantisation], settings: Settings, where: str) -> None:
    for one in spoken:
        if reason := one.refusal or one.why_not(settings):
            raise Stop(f"{where}: its weights are quantised ({method}) and not read here: {reason}; {_INSTEAD}")
    if method and not spoken:
        from lorax.quantisations import QUANTISATIONS

        read = ", ".join(sorted(name for one in QUANTISATIONS.values() if not one.refusal for name in one.methods))
        raise Stop(f"{where}: its weights are quantised by {method!r}, of which nothing is known here; {_INSTEAD}, "
                   f"or one that is quantised by one of {read}")  # fmt: skip


def _quantised_modules(tensors: Mapping[str, Plain], known: Mapping[str, Quantisation]) -> dict[str, dict[str, Plain]]:
    """The tensors of quantised weights by role, by the module that they belong to."""
    roles = frozenset[str]().union(*(one.roles for one in known.values()))
    marks = frozenset[str]().union(*(one.marks | one.required for one in known.values())) - {"weight"}
    modules: dict[str, dict[str, Plain]] = {}
    for name, plain in tensors.items():
        for module, role in _splits(name):
            if role in roles:
                modules.setdefault(module, {})[role] = plain
                break
    return {module: found for module, found in modules.items() if marks & found.keys()}


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """Every way of cutting a name into a module and a role, the longest role first."""
    parts = name.split(".")
    for at in range(max(1, len(parts) - 3), len(parts)):
        yield ".".join(parts[:at]), ".".join(parts[at:])


def _choose(claiming: list[Quantisation], roles: Mapping[str, Plain], where: str, *, told: bool) -> Quantisation:
    seen = ", ".join(f"{role} {list(plain.shape)}" for role, plain in sorted(roles.items()))
    clear = [one for one in claiming if told or not one.needs_settings]
    if len(clear) == 1:
        return clear[0]
    if claiming:
        names = " or ".join(one.name for one in claiming)
        advice = "put config.json with its quantization_config beside the weights"
        raise Stop(f"{where}: the tensors {seen} are a weight quantised by {names}; {advice}")
    raise Stop(f"{where}: the tensors {seen} are no quantised weight that is known here; {_INSTEAD}")


def _refuse_whole_numbers(found: Mapping[str, Stored], method: str, where: str) -> None:
    """Whole numbers are no weight by themselves: reading them as one would be silent nonsense."""
    for name, stored in found.items():
        if stored.dtype in _WHOLE_NUMBERS and len(stored.shape) > 1 and name.endswith("weight"):
            said = f"quantised by {method!r}" if method else "quantised in a way that is not known here"
            raise Stop(f"{where}: {name} holds {stored.dtype} numbers, so it is {said}; {_INSTEAD}")


def require_shape(tensors: Mapping[str, Plain], role: str, *shapes: tuple[int, ...]) -> None:
    """Raises Misfit when the tensor in a role is there and has none of these shapes."""
    if (found := tensors.get(role)) is not None and found.shape not in shapes:
        expected = " or ".join(str(list(shape)) for shape in shapes)
        raise Misfit(f"{role} has shape {list(found.shape)} where {expected} is expected")


def require_type(tensors: Mapping[str, Plain], role: str, *types: str) -> None:
    """Raises Misfit when the tensor in a role is there and has another element type."""
    if (found := tensors.get(role)) is not None and found.dtype not in types:
        raise Misfit(f"{role} is {found.dtype} where {' or '.join(types)} is expected")


def matrix(tensors: Mapping[str, Plain], role: str) -> tuple[int, int]:
    """Gives the shape of a tensor that has to be a matrix. Raises Misfit."""
    shape = tensors[role].shape
    if len(shape) != 2:
        raise Misfit(f"{role} has shape {list(shape)} where a matrix is expected")
    return shape[0], shape[1]


def number(settings: Settings, name: str, default: int) -> int:
    """Gives a setting that is a whole number. Raises Misfit."""
    found = settings.get(name, default)
    if isinstance(found, bool) or not isinstance(found, int):
        raise Misfit(f"the setting {name!r} is {str(found)[:80]!r} where a whole number is expected")
    return found


def json_tensor(plain: Plain) -> Mapping[str, object]:
    """Reads a small tensor of bytes that are JSON. Raises Misfit."""
    if plain.dtype != "U8" or prod(plain.shape) > 2**16:
        raise Misfit(f"{plain.entry.name} is {plain.dtype} {list(plain.shape)} where the bytes of JSON are expected")
    try:
        found = json.loads(bytes(plain.raw().tolist()))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Misfit(f"{plain.entry.name} is no JSON object")
    return found


def unpack(words: Tensor, bits: int, count: int) -> Tensor:
    """Gives (n, count) whole numbers of so many bits each from (n, words) int32, the lowest bits of a word first.

    A number may begin in one word and end in the next (3 bits). int64.
    """
    import torch

    wide = words.to(torch.int64) & 0xFFFFFFFF
    wide = torch.cat([wide, wide.new_zeros(len(wide), 1)], dim=1)
    first = torch.arange(count) * bits
    low, shift = wide[:, first // 32], first % 32
    high = wide[:, first // 32 + 1]
    return ((low >> shift) | (high << (32 - shift))) & ((1 << bits) - 1)
