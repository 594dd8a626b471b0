"""Which base models can be in question at all, from the sizes of weights.

Sizes are compared in a hundredth of the time that the names of a base take to make. Nothing is decided here: a base is
only struck off when its names could not have saved it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache

from lorax.algorithm import Layout
from lorax.base_model import BaseModel
from lorax.matrix_fit import MatrixFit

Sizes = Mapping[tuple[int, int] | None, int]
"""How many modules patch a weight of (rows, columns); None for those whose tensors do not tell."""
_Rows = Mapping[int, tuple[frozenset[int], int | None]]
"""By columns: the rows of weights as they are, and the fewest that two of them have when they are fused."""


def sizes_of(layouts: Iterable[Layout | None]) -> Sizes:
    """Counts the sizes of the weights that modules patch."""
    return Counter(map(_size, layouts))


def largest_share(sizes: Sizes, base: BaseModel) -> float:
    """Gives a share of modules that is certainly not smaller than the share that a base has, by names and shapes.

    A fused weight has the columns of its parts and at least the rows of two of them, so larger ones are let pass.
    """
    there = _rows_by_columns(base)
    fitting = sum(count for size, count in sizes.items() if size is None or _is_possible(*size, there))
    return fitting / max(1, sum(sizes.values()))


def _is_possible(rows: int, columns: int, there: _Rows) -> bool:
    alone, fused = there.get(columns, (frozenset(), None))
    return rows in alone or (fused is not None and rows >= fused)


def _size(layout: Layout | None) -> tuple[int, int] | None:
    if layout is None:
        return None
    if layout.shape is not None:
        return layout.shape.out_features, layout.shape.columns
    return (layout.fit.rows, layout.fit.columns) if isinstance(layout.fit, MatrixFit) else None


@lru_cache(maxsize=1024)
def _rows_by_columns(base: BaseModel) -> _Rows:
    found: dict[int, set[int]] = {}
    for shape in {*base.sites.values(), *base.tables.values()}:
        found.setdefault(shape.columns, set()).add(shape.out_features)
    least: dict[int, int] = {}
    for shape in set(base.sites.values()):
        least[shape.columns] = min(2 * shape.out_features, least.get(shape.columns, 2 * shape.out_features))
    return {columns: (frozenset(rows), least.get(columns)) for columns, rows in found.items()}
