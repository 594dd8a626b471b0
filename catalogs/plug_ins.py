"""A folder of plug-ins is its own registry: one file, one object, no list kept elsewhere."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Protocol, TypeVar


class Named(Protocol):
    """Anything that has a name."""

    @property
    def name(self) -> str:
        """The name by which settings and reports call it."""
        ...


T = TypeVar("T", bound=Named)


def collect(package: str, attribute: str, kind: type[T]) -> dict[str, T]:
    """Imports each module of a package and returns the object that each declares, keyed and sorted by its name.

    A module whose name starts with an underscore is left out. Raises TypeError when a module does not declare
    `attribute` as a `kind`, and when two modules declare the same name: both are mistakes in the plug-in itself.
    """
    found: dict[str, T] = {}
    declared_in: dict[str, str] = {}
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if module.name.startswith("_"):
            continue
        path = f"{package}.{module.name}"
        declared = getattr(importlib.import_module(path), attribute, None)
        if not isinstance(declared, kind):
            raise TypeError(f"{path} has to declare {attribute} as a {kind.__name__}, but declares {declared!r}")
        if declared.name in found:
            raise TypeError(f"{path} and {declared_in[declared.name]} both declare {attribute} named {declared.name!r}")
        found[declared.name] = declared
        declared_in[declared.name] = path
    return dict(sorted(found.items()))
