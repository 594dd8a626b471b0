"""The rule of algorithms whose tensors tell the size of a matrix and not the kernel that its columns hold."""

from __future__ import annotations

from dataclasses import dataclass

from lorax.adapter import SiteShape


@dataclass(frozen=True, slots=True)
class MatrixFit:
    """Tells whether a weight, seen as a matrix, is of this size; taps of a convolution are columns among others.

    It is an object and no plain function so that its size can be asked: see lorax.shortlist.
    """

    rows: int
    columns: int

    def __call__(self, wanted: SiteShape) -> bool:
        """Tells whether a weight of this shape is such a matrix."""
        return (wanted.out_features, wanted.columns) == (self.rows, self.columns)
