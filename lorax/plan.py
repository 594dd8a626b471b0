"""A plan: a method compiled for one base pair. Made once, good for every adapter, applied without either base.

In memory it is a list of sites with their operators. On disk it is one safetensors file, whose header says which
method and settings it was made with and holds the inventories of both bases: enough to read an adapter for the source
and to write one for the target, with no weights of either at hand. In a folder it is named by its own sha256.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorax import __version__
from lorax.adapter import Site, SiteShape
from lorax.base_model import BaseModel
from lorax.base_pair import aligner_of
from lorax.correspondence import VERSION as CORRESPONDENCE_VERSION
from lorax.errors import Stop
from lorax.method import Method, Product, Setting, Term
from lorax.methods import METHODS
from lorax.operators import kind_of, rebuild
from lorax.placement import EXACT, precision_for, term_on
from lorax.weight_file import Stored, WeightFile, open_weight_file, sha256_file, write_weight_file

FORMAT = "4"
HEADER = "lorax_plan"
"""The entry of the file's header that describes the plan."""
_CONTENT_NAME = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, eq=False)
class PlannedSite:
    """One target site: its source and the operators, or the reason why it gets no update."""

    target: Site
    source: Site | None
    term: Term | None
    reason: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class PlanHead:
    """All that is known of a plan before a site has been compiled."""

    key: str
    method: str
    settings: Mapping[str, Setting]
    source_base: BaseModel
    target_base: BaseModel

    def metadata(self, sites: Iterable[Mapping[str, Any]]) -> dict[str, str]:
        """Returns what a plan file says in its header. sites: as `described` gives them, in the plan's order."""
        body = {
            "format": FORMAT,
            "code_version": __version__,
            "key": self.key,
            "method": self.method,
            "settings": dict(self.settings),
            "source": _base_in_words(self.source_base),
            "target": _base_in_words(self.target_base),
            "sites": list(sites),
        }
        return {HEADER: json.dumps(body, sort_keys=True)}


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """All planned sites of one (source, target, method, settings). `plan_id` is empty until the plan has been saved."""

    head: PlanHead
    sites: tuple[PlannedSite, ...]
    plan_id: str = ""

    def on(self, device: torch.device | str, *, error_budget: float = EXACT) -> Plan:
        """Returns the same plan with its operators resident on a device; itself where nothing would change.

        error_budget: error of converted updates that is allowed, as a share of their norm before or after; from 2e-3
        on operators and factors are halves (see lorax.placement.precision_for). That is for accelerators: a CPU is
        slower with them.
        """
        dtype = precision_for(error_budget)
        if torch.device(device).type == "cpu" and dtype == torch.float32:
            return self
        sites = [
            replace(site, term=term_on(site.term, device, dtype)) if site.term is not None else site
            for site in self.sites
        ]
        return replace(self, sites=tuple(sites))

    @property
    def key(self) -> str:
        """The sha256 over all that decided what the plan holds."""
        return self.head.key

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.head.method

    @property
    def settings(self) -> Mapping[str, Setting]:
        """All settings of the method, defaults included."""
        return self.head.settings

    @property
    def source_base(self) -> BaseModel:
        """The base that adapters come from, without weights."""
        return self.head.source_base

    @property
    def target_base(self) -> BaseModel:
        """The base that adapters go to, without weights."""
        return self.head.target_base

    @property
    def source(self) -> str:
        """Name of the base that adapters come from."""
        return self.head.source_base.name

    @property
    def target(self) -> str:
        """Name of the base that adapters go to."""
        return self.head.target_base.name

    @property
    def source_fingerprint(self) -> str:
        """Fingerprint of the base that adapters come from."""
        return self.head.source_base.fingerprint

    @property
    def target_fingerprint(self) -> str:
        """Fingerprint of the base that adapters go to."""
        return self.head.target_base.fingerprint

    def save(self, folder: Path) -> Path:
        """Writes `<folder>/<sha256 of the file>.safetensors` atomically and returns its path."""
        tensors = {
            name: tensor for index, site in enumerate(self.sites) for name, tensor in stored(index, site).items()
        }
        return write_plan(folder, self.head, tensors, [described(site) for site in self.sites])


def write_plan(
    out: Path,
    head: PlanHead,
    tensors: Mapping[str, Tensor | Stored],
    sites: Iterable[Mapping[str, Any]],
) -> Path:
    """Writes a plan file atomically and returns its path.

    out: a file (*.safetensors), or a folder, in which the file is named by its own sha256.
    """
    metadata = head.metadata(sites)
    if is_plan_file(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_weight_file(out, tensors, metadata=metadata)
        return out
    out.mkdir(parents=True, exist_ok=True)
    draft = out / f".draft-{os.getpid()}-{head.key[:16]}.safetensors"
    final = out / f"{write_weight_file(draft, tensors, metadata=metadata)}.safetensors"
    draft.replace(final)
    return final


def is_plan_file(out: Path) -> bool:
    """Tells whether a place to write a plan to is meant as a file; otherwise it is a folder."""
    return out.suffix.lower() == ".safetensors" and not out.is_dir()


def content_of(base: BaseModel) -> str:
    """Returns what tells a base from others: its fingerprint, or the sha256 of its inventory where it has none."""
    if base.fingerprint:
        return base.fingerprint
    sites = {str(site): list(shape.weight_shape) for site, shape in base.sites.items()}
    words = json.dumps([base.family, base.version, sites], sort_keys=True)
    return f"inventory {hashlib.sha256(words.encode()).hexdigest()}"


def plan_key(
    source: BaseModel, target: BaseModel, *, method: str, settings: Mapping[str, Setting], probe_id: str
) -> str:
    """Returns the sha256 over all that decides what a plan will hold; known before compiling, to find it by."""
    chosen = method_named(method)
    body = {
        "format": FORMAT,
        "correspondence": CORRESPONDENCE_VERSION,
        "aligner": aligner_of(source, target),
        "source": content_of(source),
        "target": content_of(target),
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
    """Opens a saved plan. Raises Stop where the file is no plan, or one of another format.

    A file that is named by a sha256, as those in plan folders are, has to have it; that of a file with a name of its
    own is computed all the same, for `plan_id`, but there is nothing to hold it against.
    """
    file = open_weight_file(path)
    plan_id = sha256_file(path)
    if _CONTENT_NAME.fullmatch(path.stem) and path.stem != plan_id:
        raise Stop(f"{path} has sha256 {plan_id}, but a plan is named by its hash. Delete it to have it compiled anew.")
    header = _header(file)
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name in file.tensors:
        side, _, part = name.rpartition(".")
        parts[side][part] = file.read(name)
    try:
        head = PlanHead(
            key=header["key"],
            method=header["method"],
            settings=header["settings"],
            source_base=_base_from_words(header["source"]),
            target_base=_base_from_words(header["target"]),
        )
        sites = tuple(_restored(index, site, parts) for index, site in enumerate(header["sites"]))
    except (KeyError, TypeError, ValueError) as error:
        raise Stop(f"{path}: the description of the plan is damaged ({error!r}). Compile it anew.") from error
    return Plan(head, sites, plan_id)


def read_description(path: Path) -> dict[str, Any]:
    """Returns what a plan file says in its header, as JSON values, without reading an operator. Raises Stop as above.

    Among them: key, method, settings, source and target with their `name`, and `sites`, each with `target`, `source`
    and, where it gets no update, `reason`.
    """
    return _header(open_weight_file(path))


def _header(file: WeightFile) -> dict[str, Any]:
    """The description in a file's header, when this version can read it."""
    try:
        header = json.loads(file.metadata.get(HEADER, "{}"))
    except ValueError as error:
        raise Stop(f"{file.path}: the description of the plan is damaged ({error}). Compile it anew.") from error
    found = header.get("format") if isinstance(header, dict) else None
    if not isinstance(header, dict) or found != FORMAT:
        raise Stop(f"{file.path} holds no plan of format {FORMAT} (found {found!r}). Compile it anew.")
    return header


def stored(index: int, site: PlannedSite) -> dict[str, Tensor]:
    """Returns the tensors of a site by their names in the plan file. index: of the site in the plan."""
    if site.term is None:
        return {}
    return {
        f"{place}.{part}": tensor
        for number, product in enumerate(site.term.products)
        for place, operator in zip(_places(index, number), product, strict=True)
        for part, tensor in operator.tensors().items()
    }


def _places(index: int, number: int) -> tuple[str, str]:
    """Where the tensors of a site's n-th product are: 00012.output and 00012.input, 00012.1.output and so on."""
    stem = f"{index:05d}.{number}" if number else f"{index:05d}"
    return f"{stem}.output", f"{stem}.input"


def described(site: PlannedSite) -> dict[str, Any]:
    """Returns what the header of a plan file says of a site."""
    entry: dict[str, Any] = {"target": str(site.target), "source": str(site.source) if site.source else None}
    if site.term is None:
        return {**entry, "reason": site.reason}
    return {
        **entry,
        "products": [[kind_of(product.output), kind_of(product.input)] for product in site.term.products],
        "keeps_rank": site.term.keeps_rank,
        "per_channel": site.term.per_channel,
        "norm_ratio": site.term.norm_ratio,
        "figures": dict(site.term.figures),
    }


def _restored(index: int, entry: Mapping[str, Any], parts: Mapping[str, dict[str, Tensor]]) -> PlannedSite:
    target = Site.parse(entry["target"])
    source = Site.parse(entry["source"]) if entry["source"] else None
    if "products" not in entry:
        return PlannedSite(target, source, None, reason=entry["reason"])
    first, *also = [
        Product(
            *(rebuild(kind, parts.get(place, {})) for kind, place in zip(kinds, _places(index, number), strict=True))
        )
        for number, kinds in enumerate(entry["products"])
    ]
    term = Term(
        first.output,
        first.input,
        per_channel=entry["per_channel"],
        figures=entry["figures"],
        norm_ratio=entry["norm_ratio"],
        also=tuple(also),
        keeps_rank=entry["keeps_rank"],
    )
    return PlannedSite(target, source, term)


def _base_in_words(base: BaseModel) -> dict[str, Any]:
    return {
        "name": base.name,
        "family": base.family,
        "version": base.version,
        "labels": list(base.labels),
        "file_hashes": list(base.file_hashes),
        "fingerprint": base.fingerprint,
        "sites": {str(site): list(shape.weight_shape) for site, shape in base.sites.items()},
        "tables": {str(site): list(shape.weight_shape) for site, shape in base.tables.items()},
        "vectors": {str(site): length for site, length in base.vectors.items()},
        "parameters": base.parameters,
    }


def _base_from_words(words: Mapping[str, Any]) -> BaseModel:
    return BaseModel(
        name=words["name"],
        family=words["family"],
        version=words["version"],
        labels=tuple(words["labels"]),
        file_hashes=tuple(words["file_hashes"]),
        fingerprint=words["fingerprint"],
        sites={Site.parse(site): SiteShape.of(tuple(shape)) for site, shape in words["sites"].items()},
        tables={Site.parse(site): SiteShape.of(tuple(shape)) for site, shape in words["tables"].items()},
        vectors={Site.parse(site): int(length) for site, length in words["vectors"].items()},
        parameters=words["parameters"],
    )
