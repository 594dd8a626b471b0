"""What the modules of a base model are called by the code that trains adapters for it.

A family has one canonical name for every site. The code base that a tool was built on may call it otherwise and may
hold several sites in one fused weight. Names are made forward, from the sites to every spelling, and looked up: a flat
name cannot be read backwards, for `_` stands for both `.` and `_`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorax.adapter import Site, SiteShape
from lorax.inventory import owners

if TYPE_CHECKING:
    from lorax.base_model import BaseModel


@dataclass(frozen=True, slots=True)
class Part:
    """Is what one site has of a module: rows [begin, end) of its weight, or all of it (rows None).

    swapped: the two halves of the rows lie the other way round in the module (the last AdaLN of Flux).
    """

    site: Site
    rows: tuple[int, int] | None = None
    swapped: bool = False


@dataclass(frozen=True, slots=True)
class NamedModule:
    """Is a module as one code base calls it, and the sites that it holds.

    path: dotted, without any tool's prefix; shape: of the whole, perhaps fused, weight, None for a module that has
    vectors only (a norm); experts: the parts are stacked along a first dimension and not along the rows.
    """

    component: str
    path: str
    parts: tuple[Part, ...]
    shape: SiteShape | None
    experts: bool = False


Naming = Callable[["BaseModel"], Iterable[NamedModule]]
"""Lists all modules of a base as one code base calls them."""


def own_names(base: BaseModel) -> Iterator[NamedModule]:
    """Lists the modules of a base by their canonical names."""
    for site, shape in (*base.sites.items(), *base.tables.items()):
        yield NamedModule(site.component, site.path, (Part(site),), shape)
    for site in owners(base.vectors):
        if site not in base.sites and site not in base.tables:
            yield NamedModule(site.component, site.path, (Part(site),), None)


def without_text_model(path: str) -> tuple[str, ...]:
    """Gives a path of a CLIP text encoder with and without the level that transformers 5.6 removed."""
    return tuple(dict.fromkeys((path, path.removeprefix("text_model."))))
