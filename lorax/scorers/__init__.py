"""Scorers, one file each: figures that compare source+adapter with target+converted on a probe."""

from __future__ import annotations

from lorax.plug_ins import collect
from lorax.scorer import Scorer

SCORERS: dict[str, Scorer] = collect(__name__, "SCORER", Scorer)
