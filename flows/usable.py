"""What only the library can say about a migration's settings. Asked before any file of the catalogue is looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from flows.settings import Migration, PairTable

_DOES = {"weights": "computes with the weights of both bases", "activations": "runs both bases on a probe"}


def unusable(migration: Migration, file: Path) -> Iterator[str]:
    """Yields what is wrong with bases that are known by name alone, with their pairs, and with dialects.

    Imports the library only for settings that have any of these: it takes seconds.
    """
    named = {name: base.known for name, base in migration.bases.items() if base.path is None}
    if named:
        yield from (f"{file} [bases.{name}]: {text}" for name, known in named.items() for text in _unknown(known))
    for number, pair in enumerate(migration.pairs, start=1):
        without = [name for name in (pair.source, pair.target) if name in named]
        texts = [*_no_dialect(pair), *(_needs_more(pair, without) if without else ())]
        yield from (f"{file} [[pairs]] number {number}: {text}" for text in texts)


def _unknown(known: str) -> Iterator[str]:
    from lorax.errors import Stop
    from tasks.bases import known_base

    try:
        known_base(known)
    except Stop as problem:
        yield f"there is no path, and {problem}. Give the folder of the base as path, or a name of these as known"


def _no_dialect(pair: PairTable) -> Iterator[str]:
    if pair.dialect is None:
        return
    from lorax.errors import Stop
    from lorax.write import writable_dialect

    try:
        writable_dialect(pair.dialect)
    except Stop as problem:
        yield str(problem)


def _needs_more(pair: PairTable, without: Sequence[str]) -> Iterator[str]:
    """Words what a method would do with weights that are not there. Of unknown methods the planner tells."""
    from lorax.methods import METHODS

    method = METHODS.get(pair.method)
    if method is None or method.needs == "shapes":
        return
    bases = " and ".join(without)
    ready = [one.name for one in METHODS.values() if one.needs == "shapes" and not one.is_control]
    yield (
        f"method: {method.name!r} needs {method.needs}: it {_DOES[method.needs]}, but {bases} "
        f"{'is' if len(without) == 1 else 'are'} known by name alone. Give "
        f"{' and '.join(f'[bases.{name}]' for name in without)} a path, or take a method that needs shapes alone: "
        f"{', '.join(ready)}"
    )
