"""Dialects, one file each: how tools spell the tensors of an adapter file."""

from __future__ import annotations

from lorax.dialect import Dialect
from lorax.plug_ins import collect

DIALECTS: dict[str, Dialect] = collect(__name__, "DIALECT", Dialect)
"""Every dialect by name."""
