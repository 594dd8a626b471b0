"""Where conversions are published: one file per kind of hub, each declaring `HUB`."""

from catalogs.hub import Hub
from catalogs.plug_ins import collect

HUBS = collect(__name__, "HUB", Hub)
"""Every kind of hub by its name."""

__all__ = ["HUBS"]
