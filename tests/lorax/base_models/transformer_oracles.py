"""Compares inventories and names with the classes and converters of diffusers and transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import prod
from typing import Any

import torch

from lorax.adapter import Site
from lorax.base_model import BaseModel, Family
from lorax.naming import NamedModule, Naming

Shapes = dict[str, tuple[int, ...]]


def shapes_of(build: Callable[[], Any]) -> Shapes:
    """Returns the shapes of a model's parameters; no weight is made."""
    with torch.device("meta"):
        return {name: tuple(parameter.shape) for name, parameter in build().named_parameters()}


def inventory_shapes(base: BaseModel, component: str) -> Shapes:
    """Returns the shapes of what an adapter can patch in a component, by parameter name."""
    found: Shapes = {}
    stacks: dict[str, list[tuple[int, ...]]] = {}
    for site, shape in (*base.sites.items(), *base.tables.items()):
        if site.component != component:
            continue
        if site.path.endswith("]"):
            stacks.setdefault(site.path.rpartition("[")[0], []).append(shape.weight_shape)
        else:
            found[f"{site.path}.weight"] = shape.weight_shape
    for path, shapes in stacks.items():
        assert len(set(shapes)) == 1
        found[path] = (len(shapes), *shapes[0])
    for site, length in base.vectors.items():
        if site.component == component:
            found[site.path] = (length,)
    return found


def assert_inventory(base: BaseModel, oracles: Mapping[str, Shapes], *, free: Iterable[str] = ()) -> None:
    """Asserts that names, shapes and numbers agree; free: last parts of parameters that belong to no module."""
    assert {site.component for site in base.sites} == set(oracles)
    for component, shapes in oracles.items():
        wanted = {name: shape for name, shape in shapes.items() if name.rpartition(".")[2] not in set(free)}
        assert inventory_shapes(base, component) == wanted
    assert base.parameters == sum(prod(shape) for shapes in oracles.values() for shape in shapes.values())


def marked(base: BaseModel, component: str) -> dict[str, torch.Tensor]:
    """Returns a state dict with canonical names in which every row of every weight and vector has its own number."""
    found, begin = {}, 0
    for name, shape in inventory_shapes(base, component).items():
        numbers = torch.arange(begin, begin + shape[0])
        found[name] = numbers if len(shape) == 1 else numbers[:, None]
        begin += shape[0]
    return found


def as_named(
    modules: Iterable[NamedModule], state: Mapping[str, torch.Tensor], *, norm_leaf: str = "weight"
) -> dict[str, torch.Tensor]:
    """Returns a marked state dict under other names, fused and swapped as the modules say."""
    found = {}
    for module in modules:
        for leaf in ("weight", "bias"):
            names = [f"{part.site.path}.{leaf}" for part in module.parts]
            if names[0] not in state:
                continue
            swapped = [part.swapped for part in module.parts]
            rows = [_swapped(state[name]) if swap else state[name] for name, swap in zip(names, swapped, strict=True)]
            spelled = norm_leaf if module.shape is None and leaf == "weight" else leaf
            found[f"{module.path}.{spelled}"] = torch.cat(rows)
            assert module.shape is None or leaf == "bias" or module.shape.out_features == sum(map(len, rows))
    return found


def _swapped(rows: torch.Tensor) -> torch.Tensor:
    first, second = rows.chunk(2)
    return torch.cat([second, first])


def assert_same_rows(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    """Asserts that two state dicts have the same names and, row by row, the same numbers."""
    assert found.keys() == wanted.keys()
    for name, rows in wanted.items():
        assert torch.equal(found[name], rows), name


def assert_covers(naming: Naming, base: BaseModel, component: str) -> None:
    """Asserts that a naming has every site and norm of a component exactly once, rows without gap or overlap."""
    seen: list[Site] = []
    for module in naming(base):
        if module.component != component:
            continue
        seen += [part.site for part in module.parts]
        if module.shape is not None and len(module.parts) > 1:
            ends = [part.rows or (0, 0) for part in module.parts]
            assert [begin for begin, _ in ends] == [0, *(end for _, end in ends[:-1])]
            assert ends[-1][1] == module.shape.out_features
            assert {base.sites[part.site].in_features for part in module.parts} == {module.shape.in_features}
    assert len(seen) == len(set(seen))
    assert {site for site in (*base.sites, *base.tables) if site.component == component} <= set(seen)


def assert_spellings_are_of_one_module(family: Family) -> None:
    """Asserts that no two different modules share a dotted or flat spelling, over all namings of a family."""
    for base in family.versions():
        owners: dict[tuple[str, str], object] = {}
        for naming in family.namings.values():
            for module in naming(base):
                for spelling in {module.path, module.path.replace(".", "_")}:
                    assert owners.setdefault((module.component, spelling), module.parts) == module.parts, spelling
