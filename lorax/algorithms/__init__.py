"""Algorithms, one file each: how the tensors of a module add up to an update."""

from __future__ import annotations

from lorax.algorithm import Algorithm
from lorax.plug_ins import collect

ALGORITHMS: dict[str, Algorithm] = collect(__name__, "ALGORITHM", Algorithm)
"""Every algorithm by name."""
