"""How a family writes down the parameters of a base model, and what of them an adapter can patch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from lorax.adapter import Site, SiteShape


@dataclass(frozen=True, slots=True)
class Parameter:
    """Is one tensor of a base model: canonical path with its last part ("….to_q.weight"), and shape.

    is_table: a lookup table (embedding), whose rows are chosen and not multiplied; experts: the tensor stacks this many
    weights along its first dimension (0: it does not), each of which is a site of its own.
    """

    path: str
    shape: tuple[int, ...]
    is_table: bool = False
    experts: int = 0


Parameters = Iterator[Parameter]


@dataclass(frozen=True, slots=True, eq=False)
class Inventory:
    """Holds the parameters of a base model by what an adapter does to them.

    sites: weights that are multiplied; tables: lookup tables, (entries, width); vectors: one-dimensional parameters,
    by length; parameters: how many numbers there are in all, parameters of other kinds included.
    """

    sites: dict[Site, SiteShape] = field(default_factory=dict)
    tables: dict[Site, SiteShape] = field(default_factory=dict)
    vectors: dict[Site, int] = field(default_factory=dict)
    parameters: int = 0


def take_inventory(components: Mapping[str, Iterable[Parameter]]) -> Inventory:
    """Sorts the parameters of all components."""
    found = Inventory()
    total = 0
    for component, parameters in components.items():
        for parameter in parameters:
            total += math.prod(parameter.shape)
            _sort_in(parameter, component, found)
    return Inventory(found.sites, found.tables, found.vectors, total)


def _sort_in(parameter: Parameter, component: str, found: Inventory) -> None:
    module = Site(component, parameter.path.removesuffix(".weight"))
    if parameter.experts:
        shape = SiteShape.of(parameter.shape[1:])
        for expert in range(parameter.experts):
            found.sites[Site(component, f"{parameter.path}[{expert}]")] = shape
    elif len(parameter.shape) == 1:
        found.vectors[Site(component, parameter.path)] = parameter.shape[0]
    elif not parameter.path.endswith(".weight"):
        return  # a free parameter, such as a position table: no module that a tool could name
    elif parameter.is_table:
        found.tables[module] = SiteShape.of(parameter.shape)
    elif len(parameter.shape) in {2, 4, 5}:
        found.sites[module] = SiteShape.of(parameter.shape)


def linear(path: str, out_features: int, in_features: int, *, bias: bool = True) -> Parameters:
    """Lists the parameters of a linear layer."""
    yield Parameter(f"{path}.weight", (out_features, in_features))
    if bias:
        yield Parameter(f"{path}.bias", (out_features,))


def convolution(path: str, out_channels: int, in_channels: int, *kernel: int, bias: bool = True) -> Parameters:
    """Lists the parameters of a convolution; kernel: its sizes, (kh, kw) or (kt, kh, kw)."""
    yield Parameter(f"{path}.weight", (out_channels, in_channels, *kernel))
    if bias:
        yield Parameter(f"{path}.bias", (out_channels,))


def norm(path: str, width: int, *, bias: bool = True) -> Parameters:
    """Lists the parameters of a normalisation with a weight."""
    yield Parameter(f"{path}.weight", (width,))
    if bias:
        yield Parameter(f"{path}.bias", (width,))


def table(path: str, entries: int, width: int) -> Parameters:
    """Lists the parameter of a lookup table."""
    yield Parameter(f"{path}.weight", (entries, width), is_table=True)


def owners(inventory_paths: Iterable[Site]) -> Iterable[Site]:
    """Gives the modules that own parameters, each once: `….norm1` for `….norm1.weight` and `….norm1.bias`."""
    return dict.fromkeys(
        Site(site.component, site.path.removesuffix(".weight").removesuffix(".bias")) for site in inventory_paths
    )
