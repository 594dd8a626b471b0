"""Start-up guard: the four top-level packages have common names, so make sure that they are ours."""

from __future__ import annotations

from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("flows", "tasks", "lorax", "catalogs")
CHECKOUT = Path(__file__).resolve().parents[1]


class ForeignPackageError(Exception):
    """A package of ours would be imported from somewhere else."""


def check_packages(*, names: tuple[str, ...] = PACKAGES, root: Path = CHECKOUT) -> None:
    """Passes when each package would be imported from `root`; raises ForeignPackageError naming the one that is not."""
    for name in names:
        found = package_folder(name)
        if found is None or found.parent != root:
            raise ForeignPackageError(_explain(name, found, root=root))


def package_folder(name: str) -> Path | None:
    """Returns the folder that `import name` would read, without importing it; None where there is none."""
    spec = find_spec(name)
    if spec is None:
        return None
    if spec.origin is not None:
        return Path(spec.origin).resolve().parent
    return next((Path(folder).resolve() for folder in spec.submodule_search_locations or ()), None)


def _explain(name: str, found: Path | None, *, root: Path) -> str:
    if found is None:
        return f"there is no package `{name}`, expected in {root}: install this checkout with `pip install -e .`"
    owners = ", ".join(sorted(set(packages_distributions().get(name, ())))) or "no installed distribution"
    return (
        f"`import {name}` would read {found} (from {owners}), not {root / name}; "
        "another package of that name is in the way: uninstall it, or give this checkout its own virtual environment"
    )
