"""Weight scorers, one file each: figures that compare a conversion's weights with the adapter's, without any model."""

from __future__ import annotations

from lorax.plug_ins import collect
from lorax.weight_scorer import WeightScorer

WEIGHT_SCORERS: dict[str, WeightScorer] = collect(__name__, "WEIGHT_SCORER", WeightScorer)
"""A plug-in folder is its own registry: one file declares one object, and nothing else lists it."""
