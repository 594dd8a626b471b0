"""`lorax convert --method refresh`: converts an adapter by plans, then lets it learn from source+adapter."""

from __future__ import annotations

import hashlib
import json
import math
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from lorax.adapter import Adapter, Site
from lorax.base_pair import pairing
from lorax.checkpoint import Checkpoint
from lorax.convert import Conversion, SiteReport, convert_adapters
from lorax.correspondence import Matches
from lorax.errors import Unsupported
from lorax.load_model import load_pair
from lorax.methods import METHODS
from lorax.plan import Plan
from lorax.prepare import Progress, prepare_plan
from lorax.probe import ProbeSettings
from lorax.refresh import Refreshed, RefreshSettings, refresh
from lorax.refresh_start import completed
from tasks.device import device

REFRESH = "refresh"
_STARTS = ("auto" if "auto" in METHODS else "calibrated", "copy", "zero")
"""What is started from, whichever is best; `zero` is the target itself, where every conversion does harm."""
NO_PLAN = (
    "refresh is no plan: it runs both base models for every adapter. Refresh one with "
    "`lorax convert ADAPTER --source S --target T --method refresh -o OUT`"
)


@dataclass(frozen=True, slots=True, eq=False)
class Improved:
    """A conversion whose adapter was refreshed, the plan of the conversion, and what the refresh saw."""

    conversion: Conversion
    plan: Plan
    refreshed: Refreshed
    settings: RefreshSettings
    stopped: bool

    def name(self, conversion_id: str) -> str:
        """Returns the id of the refreshed conversion: that of its start with all that was set for the refresh."""
        body = json.dumps([conversion_id, REFRESH, asdict(self.settings)], sort_keys=True)
        return hashlib.sha256(body.encode()).hexdigest()

    def facts(self) -> dict[str, Any]:
        """Returns what a refresh has to say besides a conversion."""
        found = self.refreshed
        return {
            "method": REFRESH,
            "started_from": found.started_from,
            "starts": dict(found.starts),
            "divergence_gain": {"before": found.start.gain, "after": found.best.gain},
            "drift": {"before": found.start.drift, "after": found.best.drift},
            "steps": found.history[-1].step,
            "seconds": round(found.history[-1].seconds, 1),
            "stopped_by_hand": self.stopped,
            "checks": [asdict(check) for check in found.history],
        }


def improve(
    bases: tuple[Checkpoint, Checkpoint],
    adapter: Adapter,
    lowered: Adapter,
    settings: RefreshSettings,
    *,
    progress: Progress,
) -> Improved:
    """Converts a lowered adapter by every plan it may start from, and refreshes the best of the results.

    bases: source and target; adapter: as it was read, of which the student learns. Sites that a conversion leaves
    empty although they correspond begin at zero. Ctrl-C ends the learning: what was reached until then is returned.
    Raises Stop for bases that do not run or compare, Unsupported where not one site of the adapter has a home.
    """
    probe = settings.probe
    if not probe.prompts and adapter.trigger_words:
        probe = replace(probe, prompts=adapter.trigger_words)
    models = load_pair(bases[0].folder, bases[1].folder, device=device())
    matches = pairing(*bases)
    found = _starts(bases, lowered, probe, matches, progress)
    starts = {name: conversion.adapter for name, (_, conversion) in found.items()}
    with _interruptible() as interrupted:
        refreshed = refresh(
            *models, adapter, starts, replace(settings, probe=probe), progress=progress, stop=interrupted
        )
        stopped = interrupted()
    plan, conversion = found[refreshed.started_from]
    reports = tuple(_reported(report, refreshed.adapter, matches) for report in conversion.sites)
    conversion = replace(conversion, adapter=refreshed.adapter, sites=reports)
    return Improved(conversion, plan, refreshed, settings, stopped)


def _starts(
    bases: tuple[Checkpoint, Checkpoint], adapter: Adapter, probe: ProbeSettings, matches: Matches, progress: Progress
) -> Mapping[str, tuple[Plan, Conversion]]:
    target = bases[1]
    found: dict[str, tuple[Plan, Conversion]] = {}
    refusal: Unsupported | None = None
    for method in _STARTS:
        plan = prepare_plan(*bases, method=method, settings={}, probe=probe, device=device(), progress=progress)
        (result,) = convert_adapters(plan, [adapter])
        if isinstance(result, Unsupported):
            refusal = result
            continue
        whole = completed(result.adapter, adapter, target.base, matches)
        if whole.updates:
            found[method] = (plan, replace(result, adapter=whole))
    if found:
        return found
    raise refusal or Unsupported("no-common-site", f"none of the adapter's sites has a home in {target.base.name}")


def _reported(report: SiteReport, adapter: Adapter, matches: Matches) -> SiteReport:
    """The report on a site after the refresh: where its update is now, and how long against the one at home."""
    origin = Site.parse(report.site)
    homes = [site for site, found in matches.items() if found == origin]
    squares = [adapter.low_rank()[home].norm() ** 2 for home in homes if home in adapter.updates]
    if not squares or not report.norm:
        return report
    names = ", ".join(str(home) for home in homes if home in adapter.updates)
    return replace(report, target=names, kept_norm=math.sqrt(sum(squares)) / report.norm, reason="")


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Gives a question: has Ctrl-C been pressed? A second one interrupts as ever."""
    pressed: list[int] = []

    def remember(number: int, _frame: object) -> None:
        pressed.append(number)
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)
