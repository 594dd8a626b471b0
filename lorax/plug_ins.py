"""A plug-in folder is its own registry: one file declares one object, and nothing else lists it."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TypeVar

T = TypeVar("T")


def collect(package: str, attribute: str, kind: type[T]) -> dict[str, T]:
    """Gives the objects that the modules of a package declare, by their `.name`, sorted.

    Imports every module of the folder whose name has no leading underscore and takes its attribute.
    Raises TypeError when a module declares none or one of another kind, ValueError when two share a name:
    both are mistakes of whoever wrote the module, found at import.
    """
    folder = importlib.import_module(package).__path__
    found: dict[str, T] = {}
    for entry in pkgutil.iter_modules(folder):
        if entry.name.startswith("_"):
            continue
        module = importlib.import_module(f"{package}.{entry.name}")
        declared = getattr(module, attribute, None)
        if not isinstance(declared, kind):
            raise TypeError(
                f"{module.__name__} has to declare {attribute}, an object of {kind.__name__}; it has {declared!r}"
            )
        name = str(declared.name)  # type: ignore[attr-defined]
        if name in found:
            raise ValueError(
                f"{module.__name__} declares {attribute} {name!r}, a name that another module of {package} has"
            )
        found[name] = declared
    return dict(sorted(found.items()))
