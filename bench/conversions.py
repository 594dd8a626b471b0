"""Conversions of every quality, right ones and ones made wrong on purpose, for a gate to be tried on.

One adapter on one base pair gives some thirty: by every method and control, refreshed for a short and a long time,
mixed with nothing or blown up, and broken in the ways that a conversion can be broken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bench.subjects import Example
from lorax.adapter import Adapter, LowRank, Site
from lorax.base_pair import pairing
from lorax.checkpoint import Checkpoint
from lorax.convert import Conversion, convert_adapters
from lorax.methods import METHODS
from lorax.plan import Plan
from lorax.prepare import prepare_plan
from lorax.refresh import RefreshSettings, refresh
from lorax.refresh_start import completed
from lorax.running_model import RunningModel

METHOD, CONTROL, REFRESHED, SCALED, WRONG = "method", "control", "refreshed", "scaled", "wrong"
BEST, LEARNT, RENAMED = "auto", "refreshed-much", "copy"
STEPS = {"language": {"little": 12, "much": 340}, "diffusion": {"little": 8, "much": 160}}
"""Steps of the refreshed ones, by kind of model."""
SCALES = (0.3, 0.6, 1.4, 2.0)
TOO_STRONG = 3.0


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A conversion, how it was made, and its kind: METHOD, CONTROL, REFRESHED, SCALED or WRONG."""

    label: str
    kind: str
    adapter: Adapter


class Maker:
    """Makes the conversions of all adapters of one base pair."""

    def __init__(
        self, example: Example, bases: tuple[Checkpoint, Checkpoint], models: tuple[RunningModel, RunningModel]
    ) -> None:
        self._example, self._bases, self._models = example, bases, models
        self._plans = {name: self._plan(name) for name in METHODS}

    def _plan(self, method: str) -> Plan:
        return prepare_plan(*self._bases, method=method, settings={}, probe=self._example.probe)

    def converted(self, adapters: Mapping[str, Adapter]) -> dict[str, list[Made]]:
        """Returns the conversions of each adapter, by its name; adapters are of the source, lowered."""
        sound = {name: list(self._sound(adapter)) for name, adapter in adapters.items()}
        found = {}
        for index, name in enumerate(sound):
            neighbour = sound[list(sound)[(index + 1) % len(sound)]]
            found[name] = [*sound[name], *_scaled(sound[name]), *_wrong(sound[name], neighbour)]
        return found

    def _sound(self, adapter: Adapter) -> Iterator[Made]:
        starts = {}
        for name, plan in self._plans.items():
            (result,) = convert_adapters(plan, [adapter], target=self._bases[1].base)
            if isinstance(result, Conversion) and result.adapter.updates:
                kind = CONTROL if METHODS[name].is_control else METHOD
                starts[name] = result.adapter
                yield Made(name, kind, result.adapter)
        yield from self._refreshed(adapter, starts)

    def _refreshed(self, adapter: Adapter, found: Mapping[str, Adapter]) -> Iterator[Made]:
        matches = pairing(*self._bases)
        starts = {
            name: completed(found[name], adapter, self._bases[1].base, matches)
            for name in (BEST, RENAMED, "zero")
            if name in found
        }
        for amount, steps in STEPS[self._models[0].kind].items():
            settings = RefreshSettings(probe=replace(self._example.probe, seed=1000), steps=steps)
            outcome = refresh(*self._models, adapter, starts, settings)
            yield Made(f"refreshed-{amount}", REFRESHED, outcome.adapter)


def _scaled(sound: Sequence[Made]) -> Iterator[Made]:
    for made in sound:
        if made.label in {BEST, LEARNT}:
            yield from (Made(f"{made.label} x{factor}", SCALED, scaled(made.adapter, factor)) for factor in SCALES)


def _wrong(sound: Sequence[Made], neighbour: Sequence[Made]) -> Iterator[Made]:
    others = {made.label: made.adapter for made in neighbour}
    for made in sound:
        if made.label not in {BEST, LEARNT}:
            continue
        adapter = made.adapter
        yield Made(f"{made.label}, sign flipped", WRONG, scaled(adapter, -1.0))
        yield Made(f"{made.label}, x3", WRONG, scaled(adapter, TOO_STRONG))
        yield Made(f"{made.label}, layers shuffled", WRONG, shuffled(adapter))
        yield Made(f"{made.label}, half the sites", WRONG, halved(adapter))
        yield Made(f"{made.label}, not a number", WRONG, spoilt(adapter))
        if made.label in others:
            yield Made(f"{made.label}, of another adapter", WRONG, others[made.label])


def scaled(adapter: Adapter, factor: float) -> Adapter:
    """Returns the adapter with all its updates times a factor."""
    return _with(adapter, {site: replace(one, scale=one.scale * factor) for site, one in adapter.low_rank().items()})


def shuffled(adapter: Adapter) -> Adapter:
    """Returns the adapter with updates of equal shape exchanged: each at the next such site."""
    by_shape: dict[tuple[object, ...], list[Site]] = {}
    updates = adapter.low_rank()
    for site in sorted(updates):
        one = updates[site]
        by_shape.setdefault((one.out_features, one.columns, one.kernel), []).append(site)
    moved = {
        site: updates[sites[(place + 1) % len(sites)]]
        for sites in by_shape.values()
        for place, site in enumerate(sites)
    }
    return _with(adapter, moved)


def halved(adapter: Adapter) -> Adapter:
    """Returns the adapter without every other site."""
    return _with(
        adapter, {site: one for index, (site, one) in enumerate(sorted(adapter.low_rank().items())) if index % 2}
    )


def spoilt(adapter: Adapter) -> Adapter:
    """Returns the adapter with one number of one update made NaN."""
    updates = dict(adapter.low_rank())
    site = sorted(updates)[len(updates) // 2]
    up: Tensor = updates[site].up.clone()
    up[0, 0] = math.nan
    return _with(adapter, updates | {site: replace(updates[site], up=up)})


def _with(adapter: Adapter, updates: Mapping[Site, LowRank]) -> Adapter:
    return replace(adapter, updates=dict(updates))


def finite(adapter: Adapter) -> bool:
    """Tells whether every number of the updates is one."""
    return all(
        bool(torch.isfinite(one.up).all() and torch.isfinite(one.down).all()) for one in adapter.low_rank().values()
    )
