"""What the original code of a model calls its modules, where that differs from diffusers: names, and fused rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count

from lorax.adapter import Site, SiteShape
from lorax.base_model import BaseModel
from lorax.naming import NamedModule, Part, own_names

Table = Mapping[str, tuple[str, ...]]
"""A module of the original code -> the canonical modules whose rows its weight stacks, from top to bottom."""


@dataclass(frozen=True, slots=True)
class Translation:
    """Tells what the original code calls the modules of one component.

    top: modules outside the blocks; blocks: numbered list of blocks in the original code -> the canonical list, and the
    modules in a block; swapped(base): paths in the original code of modules whose two halves lie the other way round
    in diffusers (shift before scale).
    """

    component: str
    top: Table
    blocks: Mapping[str, tuple[str, Table]]
    swapped: Callable[[BaseModel], frozenset[str]] = field(default=lambda _base: frozenset())

    def __call__(self, base: BaseModel) -> Iterator[NamedModule]:
        """Lists the modules of the component in a base as the original code calls them; what it lacks is left out."""
        swapped = self.swapped(base)
        for path, canonical in self.top.items():
            yield from self._module(base, path, canonical, swapped)
        for block, (canonical_block, table) in self.blocks.items():
            for number in count():
                found = [
                    module
                    for path, canonical in table.items()
                    for module in self._module(
                        base,
                        f"{block}.{number}.{path}",
                        tuple(f"{canonical_block}.{number}.{name}" for name in canonical),
                        swapped,
                    )
                ]
                if not found:
                    break
                yield from found

    def _module(
        self, base: BaseModel, path: str, canonical: tuple[str, ...], swapped: frozenset[str]
    ) -> Iterator[NamedModule]:
        sites = [Site(self.component, name) for name in canonical]
        shapes = [base.sites[site] for site in sites if site in base.sites]
        if len(shapes) == len(sites):
            yield _stacked(self.component, path, sites, shapes, swapped=path in swapped)
        elif len(sites) == 1 and Site(self.component, f"{canonical[0]}.weight") in base.vectors:
            yield NamedModule(self.component, path, (Part(sites[0]),), None)


def _stacked(component: str, path: str, sites: list[Site], shapes: list[SiteShape], *, swapped: bool) -> NamedModule:
    if len(sites) == 1:
        return NamedModule(component, path, (Part(sites[0], swapped=swapped),), shapes[0])
    parts, begin = [], 0
    for site, shape in zip(sites, shapes, strict=True):
        parts.append(Part(site, (begin, begin + shape.out_features)))
        begin += shape.out_features
    return NamedModule(component, path, tuple(parts), SiteShape(begin, shapes[0].in_features, shapes[0].kernel))


def renamed(component: str, name: Callable[[str], str]) -> Callable[[BaseModel], Iterator[NamedModule]]:
    """Gives the naming that calls each module of a component by another name; modules whose name stays are left out."""

    def naming(base: BaseModel) -> Iterator[NamedModule]:
        for module in own_names(base):
            other = name(module.path) if module.component == component else module.path
            if other != module.path:
                yield NamedModule(component, other, module.parts, module.shape, module.experts)

    return naming
