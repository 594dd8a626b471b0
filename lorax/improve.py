"""A conversion that a refresh goes on with: what it may start from, its name, and what became of its sites."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from lorax.adapter import Adapter, Site
from lorax.base_model import BaseModel
from lorax.convert import Conversion, SiteReport, convert_adapters
from lorax.correspondence import Matches
from lorax.errors import Unsupported
from lorax.plan import Plan
from lorax.probe import ProbeSettings
from lorax.refresh import Progress, Refreshed, RefreshSettings, never, quiet, refresh
from lorax.refresh_start import completed
from lorax.running_model import RunningModel

REFRESH = "refresh"
"""What the method is called wherever methods are named; it is no plan, so it is not among METHODS."""
VERSION = 1
"""Belongs to the name of a refreshed conversion: raised whenever what comes out of equal settings changes."""


class Start(NamedTuple):
    """A conversion that a refresh may start from, and the plan that it was made by."""

    plan: Plan
    conversion: Conversion


@dataclass(frozen=True, slots=True, eq=False)
class Improved:
    """A conversion whose adapter was refreshed, the plan of the conversion, and what the refresh saw."""

    conversion: Conversion
    plan: Plan
    refreshed: Refreshed
    settings: RefreshSettings
    stopped: bool = False

    def name(self, conversion_id: str) -> str:
        """Returns the id of the refreshed conversion, from that of the conversion that it goes on from."""
        return refreshed_name(conversion_id, self.settings)

    def facts(self) -> dict[str, Any]:
        """Returns what a refresh has to say besides a conversion, as plain JSON values."""
        found, limit = self.refreshed, self.settings.seconds
        return {
            "method": REFRESH,
            "started_from": found.started_from,
            "starts": dict(found.starts),
            "divergence_gain": {"before": found.start.gain, "after": found.best.gain},
            "drift": {"before": found.start.drift, "after": found.best.drift},
            "allowed_drift": found.allowed_drift,
            "steps": found.history[-1].step,
            "seconds": round(found.history[-1].seconds, 1),
            "timed": found.timed,
            "out_of_time": limit is not None and found.history[-1].seconds >= limit,
            "stopped_by_hand": self.stopped,
            "checks": [asdict(check) for check in found.history],
        }


def refreshed_name(conversion_id: str, settings: RefreshSettings) -> str:
    """Returns the id of a conversion that goes on from another one: its id, and all that is set for the refresh."""
    said = {**asdict(settings), "probe": settings.probe.identity()}
    body = json.dumps([conversion_id, REFRESH, VERSION, said], sort_keys=True)
    return hashlib.sha256(body.encode()).hexdigest()


def for_words(probe: ProbeSettings, adapter: Adapter) -> ProbeSettings:
    """Returns the settings of a probe, with an adapter's trigger words as prompts where it has none."""
    if probe.prompts or not adapter.trigger_words:
        return probe
    return replace(probe, prompts=adapter.trigger_words)


def starts_from(
    plans: Mapping[str, Plan], adapter: Adapter, matches: Matches, *, target: BaseModel
) -> dict[str, Start]:
    """Converts a lowered adapter by every plan, and returns what has an update anywhere, by the names of the plans.

    matches: of the pair, as of lorax.base_pair.pairing. Sites that a conversion leaves empty although they correspond
    begin at zero, so the plan of `zero` gives the target itself. Raises Unsupported where not one site has a home.
    """
    found: dict[str, Start] = {}
    refusal: Unsupported | None = None
    for name, plan in plans.items():
        (result,) = convert_adapters(plan, [adapter], target=target)
        if isinstance(result, Unsupported):
            refusal = result
            continue
        whole = completed(result.adapter, adapter, target, matches)
        if whole.updates:
            found[name] = Start(plan, replace(result, adapter=whole))
    if found:
        return found
    raise refusal or Unsupported("no-common-site", f"none of the adapter's sites has a home in {target.name}")


def improved(
    models: tuple[RunningModel, RunningModel],
    adapter: Adapter,
    starts: Mapping[str, Start],
    settings: RefreshSettings,
    matches: Matches,
    *,
    progress: Progress = quiet,
    stop: Callable[[], bool] = never,
) -> Improved:
    """Refreshes the best of several conversions of an adapter.

    models: source and target; adapter: as it was read, of which the student learns. A probe without prompts is drawn
    for the adapter's trigger words. Raises Stop for models that do not compare.
    """
    asked = settings if settings.words else replace(settings, probe=for_words(settings.probe, adapter))
    choice = {name: start.conversion.adapter for name, start in starts.items()}
    found = refresh(*models, adapter, choice, asked, progress=progress, stop=stop)
    plan, conversion = starts[found.started_from]
    sites = tuple(_reported(report, found.adapter, matches) for report in conversion.sites)
    return Improved(replace(conversion, adapter=found.adapter, sites=sites), plan, found, settings, stop())


def _reported(report: SiteReport, adapter: Adapter, matches: Matches) -> SiteReport:
    """The report on a site after the refresh: where its update is now, and how long against the one at home."""
    origin = Site.parse(report.site)
    homes = [site for site, found in matches.items() if found == origin]
    squares = [adapter.low_rank()[home].norm() ** 2 for home in homes if home in adapter.updates]
    if not squares or not report.norm:
        return report
    names = ", ".join(str(home) for home in homes if home in adapter.updates)
    return replace(report, target=names, kept_norm=math.sqrt(sum(squares)) / report.norm, reason="")
