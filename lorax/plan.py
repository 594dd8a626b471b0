"""A plan: a method compiled for one base pair. Made once, good for every adapter, applied without either base.

In memory it is a list of sites with their operators; on disk one safetensors file named by its own sha256, whose header
says which bases, method and settings it was made from.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lorax import __version__
from lorax.adapter import Site
from lorax.base_model import BaseModel
from lorax.errors import Stop
from lorax.method import Method, Setting, Term
from lorax.methods import METHODS
from lorax.operators import Operator, kind_of, rebuild
from lorax.weight_file import open_weight_file, sha256_file, write_weight_file

FORMAT = "1"


@dataclass(frozen=True, slots=True, eq=False)
class PlannedSite:
    """One target site: its source and the operators, or the reason why it gets no update."""

    target: Site
    source: Site | None
    term: Term | None
    reason: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """All planned sites of one (source, target, method, settings). `plan_id` is empty until the plan has been saved."""

    key: str
    method: str
    settings: Mapping[str, Setting]
    source: str
    target: str
    source_fingerprint: str
    target_fingerprint: str
    sites: tuple[PlannedSite, ...]
    plan_id: str = ""

    def save(self, folder: Path) -> Path:
        """Writes `<folder>/<sha256 of the file>.safetensors` atomically and returns its path."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor for index, site in enumerate(self.sites) for name, tensor in _stored(index, site)}
        draft = folder / f".draft-{os.getpid()}-{self.key[:16]}.safetensors"
        metadata = {"lorax_plan": json.dumps(self._header(), sort_keys=True)}
        sha256 = write_weight_file(draft, tensors, metadata=metadata)
        final = folder / f"{sha256}.safetensors"
        draft.replace(final)
        return final

    def _header(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "code_version": __version__,
            "key": self.key,
            "method": self.method,
            "settings": dict(self.settings),
            "source": {"name": self.source, "fingerprint": self.source_fingerprint},
            "target": {"name": self.target, "fingerprint": self.target_fingerprint},
            "sites": [_described(site) for site in self.sites],
        }


def plan_key(
    source: BaseModel, target: BaseModel, *, method: str, settings: Mapping[str, Setting], probe_id: str
) -> str:
    """Returns the sha256 over all that decides what a plan will hold; known before compiling, to find it by."""
    chosen = method_named(method)
    body = {
        "format": FORMAT,
        "source": source.fingerprint,
        "target": target.fingerprint,
        "method": chosen.name,
        "version": chosen.version,
        "settings": merged_settings(chosen, settings),
        "probe": probe_id if chosen.needs == "activations" else "",
    }
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def method_named(name: str) -> Method:
    """Returns the method of that name; raises Stop, naming those there are, where there is none."""
    if name not in METHODS:
        raise Stop(f"There is no transfer method {name!r}. Known methods: {', '.join(METHODS)}.")
    return METHODS[name]


def merged_settings(method: Method, given: Mapping[str, Setting]) -> dict[str, Setting]:
    """Returns the method's settings, the user's in place of defaults; raises Stop for one that it does not have."""
    unknown = sorted(set(given) - set(method.settings))
    if unknown:
        known = ", ".join(method.settings) or "none"
        raise Stop(f"Method {method.name!r} has no setting {unknown[0]!r}. Its settings: {known}.")
    return {**method.settings, **given}


def load_plan(path: Path) -> Plan:
    """Opens a saved plan; raises Stop where the file is no plan or is not the one that its name says."""
    plan_id = sha256_file(path)
    if path.stem != plan_id:
        raise Stop(f"{path} has sha256 {plan_id}, but a plan is named by its hash. Delete it to have it compiled anew.")
    file = open_weight_file(path)
    header = json.loads(file.metadata.get("lorax_plan", "{}"))
    if header.get("format") != FORMAT:
        raise Stop(f"{path} holds no plan of format {FORMAT} (found {header.get('format')!r}). Compile it anew.")
    tensors = {name: file.read(name) for name in file.tensors}
    return Plan(
        key=header["key"],
        method=header["method"],
        settings=header["settings"],
        source=header["source"]["name"],
        target=header["target"]["name"],
        source_fingerprint=header["source"]["fingerprint"],
        target_fingerprint=header["target"]["fingerprint"],
        sites=tuple(_restored(index, site, tensors) for index, site in enumerate(header["sites"])),
        plan_id=plan_id,
    )


def _stored(index: int, site: PlannedSite) -> list[tuple[str, Tensor]]:
    if site.term is None:
        return []
    sides: list[tuple[str, Operator]] = [("output", site.term.output), ("input", site.term.input)]
    return [
        (f"{index:05d}.{side}.{part}", tensor)
        for side, operator in sides
        for part, tensor in operator.tensors().items()
    ]


def _described(site: PlannedSite) -> dict[str, Any]:
    entry: dict[str, Any] = {"target": str(site.target), "source": str(site.source) if site.source else None}
    if site.term is None:
        return {**entry, "reason": site.reason}
    return {
        **entry,
        "output": kind_of(site.term.output),
        "input": kind_of(site.term.input),
        "per_channel": site.term.per_channel,
        "figures": dict(site.term.figures),
    }


def _restored(index: int, entry: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> PlannedSite:
    target = Site.parse(entry["target"])
    source = Site.parse(entry["source"]) if entry["source"] else None
    if "output" not in entry:
        return PlannedSite(target, source, None, reason=entry["reason"])
    sides = {}
    for side in ("output", "input"):
        prefix = f"{index:05d}.{side}."
        parts = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        sides[side] = rebuild(entry[side], parts)
    term = Term(sides["output"], sides["input"], per_channel=entry["per_channel"], figures=entry["figures"])
    return PlannedSite(target, source, term)
