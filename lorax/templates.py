"""Finding the base model whose names a file uses, and taking fused weights apart as its sites divide them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache

from lorax.base_model import BaseModel, Family
from lorax.base_models import FAMILIES
from lorax.errors import Stop
from lorax.inventory import Parameter, take_inventory
from lorax.naming import NamedModule, Part
from lorax.stored import Stored, rows_of, swapped

Placed = Mapping[str, Mapping[str, Stored]]
"""Parameters by component and canonical name."""

_LEAVES = {"weight": "weight", "bias": "bias", "scale": "weight"}
"""The last part of a parameter's name, and what it is in diffusers and transformers."""
_FREE = (
    (re.compile(r"(blocks\.\d+\.)modulation"), r"\1scale_shift_table"),
    (re.compile(r"head\.modulation"), r"scale_shift_table"),
    (re.compile(r"(.*\.)?scale_shift_table"), r"\g<0>"),
)
"""Parameters that belong to no module, and their names in diffusers: modulations of Wan and LTX."""
_NUMBER = re.compile(r"\.\d+(?=\.|$)")
_SAME = 0.9
"""The share of kinds of modules that a file and a known base have to have in common, seen from either."""
_SHOWN = 4


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """Is a known base model seen under one naming: its modules by their names there.

    kinds: names of weights without the numbers of blocks.
    """

    family: Family
    base: BaseModel
    component: str
    naming: str
    modules: Mapping[str, NamedModule]
    kinds: frozenset[str]


def best_template(names: Mapping[str, Stored], where: str) -> Template:
    """Gives the known base model that explains the names best. Raises Stop where none explains nearly all of them.

    Numbers of blocks and widths may be others, kinds of modules may not. A language model has to be a known one.
    """
    shapes = {
        name.removesuffix(".weight"): stored.shape
        for name, stored in names.items()
        if name.endswith(".weight") and len(stored.shape) > 1
    }
    kinds = {_kind(module) for module in shapes}
    best, merit = None, (0, 0)
    for template in _templates():
        if not _alike(kinds, template.kinds):
            continue
        common = shapes.keys() & template.modules.keys()
        equal = sum(_weight_shape(template.modules[module]) == shapes[module] for module in common)
        if (len(common), equal) > merit:
            best, merit = template, (len(common), equal)
    if best is None:
        raise _unrecognised(names, where)
    if best.component == "model" and merit[1] < len(shapes):
        advice = "put config.json of the model beside the file"
        raise Stop(f"{where}: this is a model built like {best.base.name}, of other sizes; {advice}")
    return best


@cache
def _templates() -> tuple[Template, ...]:
    """Every known base model but those with a U-Net, whose layers are counted otherwise, under each of its namings."""
    return tuple(
        _template(family, base, component, naming)
        for family in FAMILIES.values()
        for base in family.versions()
        for component in (next(iter(base.sites)).component,)
        for naming in (*family.namings, *family.program_namings)
        if component != "unet"
    )


def _template(family: Family, base: BaseModel, component: str, naming: str) -> Template:
    own, named = (_modules(base, family, each, component) for each in ("own", naming))
    covered = {part.site for module in named.values() for part in module.parts}
    # Some namings list only what is called otherwise.
    same = {path: one for path, one in own.items() if covered.isdisjoint(part.site for part in one.parts)}
    modules = {**same, **named}
    kinds = frozenset(_kind(path) for path, module in modules.items() if module.shape is not None)
    return Template(family, base, component, naming, modules, kinds)


def _modules(base: BaseModel, family: Family, naming: str, component: str) -> dict[str, NamedModule]:
    lists = {**family.program_namings, **family.namings}[naming](base)
    return {module.path: module for module in lists if module.component == component and not module.experts}


def _kind(module: str) -> str:
    """The name of a module without the numbers of its blocks."""
    return _NUMBER.sub(".*", module)


def _alike(kinds: set[str], known: frozenset[str]) -> bool:
    return len(kinds & known) >= _SAME * max(len(kinds), len(known), 1)


def _weight_shape(module: NamedModule) -> tuple[int, ...]:
    return module.shape.weight_shape if module.shape is not None else ()


def _unrecognised(names: Mapping[str, Stored], where: str) -> Stop:
    shown = ", ".join(sorted(names)[:_SHOWN]) or "none"
    known = ", ".join(FAMILIES)
    return Stop(
        f"{where}: no known family of base models has the names of these {len(names)} tensors ({shown} …); known are "
        f"{known}. Give a folder as saved by diffusers or transformers, with its config.json"
    )


def place_all(names: Mapping[str, Stored], template: Template, where: str) -> dict[str, Stored]:
    """Gives the parameters of a file by canonical name. Raises Stop for a fused weight that cannot be taken apart.

    The names are looked up twice: with the number of blocks of the known base, and then with that of the file, for what
    is the last block decides how some weights are kept.
    """
    found = dict(_placed(names, template.modules, where))
    inventory = take_inventory({template.component: [Parameter(path, each.shape) for path, each in found.items()]})
    base = replace(template.base, sites=inventory.sites, tables=inventory.tables, vectors=inventory.vectors)
    own = _template(template.family, base, template.component, template.naming)
    return dict(_placed(names, own.modules, where))


def _placed(
    names: Mapping[str, Stored], modules: Mapping[str, NamedModule], where: str
) -> Iterator[tuple[str, Stored]]:
    for name, stored in names.items():
        yield from place_parameter(name, stored, modules, where)


def place_parameter(
    name: str, stored: Stored, modules: Mapping[str, NamedModule], where: str
) -> Iterator[tuple[str, Stored]]:
    """Gives what each site has of a parameter, by canonical name; nothing for a parameter of no known module."""
    path, _, leaf = name.rpartition(".")
    module = modules.get(path)
    if module is not None and leaf in _LEAVES:
        for part, rows in _rows(module, name, stored, where):
            yield f"{part.site.path}.{_LEAVES[leaf]}", swapped(rows) if part.swapped else rows
    elif (bare := modules.get(name)) is not None and bare.shape is None:
        yield f"{bare.parts[0].site.path}.weight", stored
    else:
        for pattern, canonical in _FREE:
            if found := pattern.fullmatch(name):
                yield found.expand(canonical), stored


def _rows(module: NamedModule, name: str, stored: Stored, where: str) -> Iterator[tuple[Part, Stored]]:
    if len(module.parts) == 1 or module.shape is None:
        yield module.parts[0], stored
        return
    known, rows = module.shape.out_features, stored.shape[0]
    for part in module.parts:
        begin, end = part.rows or (0, known)
        if begin * rows % known or end * rows % known or not _in_proportion(module, stored):
            seen, expected = list(stored.shape), f"{known} rows for {module.shape.in_features} inputs"
            raise Stop(f"{where}: {name} of shape {seen} holds several weights whose sizes are not known; {expected} "
                       "could be taken apart. Give the base model as a folder of diffusers")  # fmt: skip
        yield part, rows_of(stored, begin * rows // known, end * rows // known)


def _in_proportion(module: NamedModule, stored: Stored) -> bool:
    """Whether a fused weight of another width has as many rows for each input as the known one."""
    if module.shape is None or len(stored.shape) < 2:
        return True
    return stored.shape[0] * module.shape.in_features == module.shape.out_features * stored.shape[1]
