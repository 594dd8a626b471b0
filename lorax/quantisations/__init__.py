"""Quantisations, one file each: how the tensors of a weight in fewer bits give back the weight."""

from __future__ import annotations

from lorax.plug_ins import collect
from lorax.quantisation import Quantisation

QUANTISATIONS: dict[str, Quantisation] = collect(__name__, "QUANTISATION", Quantisation)
"""Every quantisation by name."""
