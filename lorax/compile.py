"""Compiles a method for a base pair into a plan, one site's weights in memory at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial

import torch

from lorax.adapter import Site
from lorax.base_pair import correspondence
from lorax.checkpoint import Checkpoint
from lorax.errors import Stop
from lorax.method import Method, NoTerm, Setting, SiteInputs, SiteStatistics
from lorax.plan import Plan, PlannedSite, merged_settings, method_named, plan_key


def compile_plan(
    source: Checkpoint,
    target: Checkpoint,
    *,
    method: str,
    settings: Mapping[str, Setting],
    probe_id: str = "",
    statistics: Mapping[Site, SiteStatistics] | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Plan:
    """Returns the plan of `method` for (source, target).

    `statistics` come from `lorax.calibration.collect_statistics`, `probe_id` names the probe they were taken on; only
    methods that need activations ask for them. Raises Stop for an unknown method or setting, or missing statistics.
    """
    chosen = method_named(method)
    merged = merged_settings(chosen, settings)
    if chosen.needs == "activations" and statistics is None:
        raise Stop(f"Method {chosen.name!r} needs a probe's activations, and none were given. Compile with a probe.")
    matches = sorted(correspondence(source.base, target.base).items())
    sites = []
    for done, (site, origin) in enumerate(matches, start=1):
        sites.append(_compile_site(site, origin, source, target, chosen, merged, statistics or {}))
        progress(done, len(matches))
    return Plan(
        key=plan_key(source.base, target.base, method=method, settings=settings, probe_id=probe_id),
        method=chosen.name,
        settings=merged,
        source=source.base.name,
        target=target.base.name,
        source_fingerprint=source.base.fingerprint,
        target_fingerprint=target.base.fingerprint,
        sites=tuple(sites),
    )


def _compile_site(
    site: Site,
    origin: Site | str,
    source: Checkpoint,
    target: Checkpoint,
    method: Method,
    settings: Mapping[str, Setting],
    statistics: Mapping[Site, SiteStatistics],
) -> PlannedSite:
    if isinstance(origin, str):
        return PlannedSite(site, None, None, reason=origin)
    inputs = SiteInputs(
        target=site,
        source=origin,
        target_shape=target.base.sites[site],
        source_shape=source.base.sites[origin],
        target_weight=partial(target.weight, site),
        source_weight=partial(source.weight, origin),
        statistics=statistics.get(site),
        generator=torch.Generator().manual_seed(_seed_for(method.name, site)),
    )
    found = method.compile_site(inputs, settings)
    if isinstance(found, NoTerm):
        return PlannedSite(site, origin, None, reason=found.reason)
    return PlannedSite(site, origin, found)


def _seed_for(method: str, site: Site) -> int:
    """Returns a seed that belongs to the site, so that a plan does not depend on the order of compilation."""
    return int.from_bytes(hashlib.sha256(f"{method} {site}".encode()).digest()[:6], "big")
