"""Where adapters are found: one file per kind of catalogue, each declaring `SOURCE`."""

from catalogs.plug_ins import collect
from catalogs.source import Source

SOURCES = collect(__name__, "SOURCE", Source)
"""Every kind of catalogue by its name."""

__all__ = ["SOURCES"]
