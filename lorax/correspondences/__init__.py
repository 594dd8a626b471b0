"""Rules of correspondence between base models, one file each. A file here that declares RULE is used and tested."""

from __future__ import annotations

from lorax.correspondence import Rule
from lorax.plug_ins import collect

RULES: dict[str, Rule] = collect(__name__, "RULE", Rule)
"""Every rule by name."""
