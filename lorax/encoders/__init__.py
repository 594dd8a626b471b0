"""Kinds of encoders, one file each: models that see pictures as points."""

from __future__ import annotations

from lorax.encoder import EncoderKind
from lorax.plug_ins import collect

ENCODERS: dict[str, EncoderKind] = collect(__name__, "ENCODER", EncoderKind)
