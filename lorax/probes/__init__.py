"""Probe sources, one file each: where the inputs come from that both bases are run on."""

from __future__ import annotations

from lorax.plug_ins import collect
from lorax.probe import ProbeSource

PROBES: dict[str, ProbeSource] = collect(__name__, "PROBE", ProbeSource)
