"""Views, one file each: what scorers look at."""

from __future__ import annotations

from lorax.plug_ins import collect
from lorax.view import View

VIEWS: dict[str, View] = collect(__name__, "VIEW", View)
