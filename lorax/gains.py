"""DoRA travels as its factors and its gains: W' = g * (W + dW), where g = m / ||W + dW|| on the base it was made for.

Lowered to LoRA, a DoRA loses what lies beyond the rank allowed, for gains change a weight in full rank. Here dW goes
through the plan with the rank that it has, the gain stays with its channel, and the magnitude of the target is
m = g * ||W_t + dW_t||: the gain and not m is moved, since lengths of weights are the base's own. That asks for the
weights of both bases, and for a plan that leaves the channels where they are. What it cannot do for, is lowered.

    carried = carried_gains(adapter, plan, dialect)             which sites, from names and operators alone
    split = split_gains(adapter, carried, source.weight)        dW without its gains, and the gains
    lowered = lower_adapter(split.adapter, source.weight)       and through the plan as any other
    conversion = with_gains(conversion, split, target.weight)   DoRA again
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lorax.adapter import Adapter, LowRank, Site, SiteShape, Update
from lorax.algorithms.dora import DoRA
from lorax.convert import Conversion
from lorax.dialect import Dialect
from lorax.dialects import DIALECTS
from lorax.in_place import stays_in_place
from lorax.method import Term
from lorax.plan import Plan, PlannedSite

if TYPE_CHECKING:
    from torch import Tensor

    from lorax.base_model import BaseModel

GAIN_CARRIED = "gain-carried"
"""The reason in the report of a site whose gain was carried."""

_AS_PEFT = frozenset({"peft", "diffusers"})
"""Dialects that have DoRA as peft has it: for all modules or for none, and per output alone."""


@dataclass(frozen=True, slots=True, eq=False)
class CarriedGains:
    """Says which sites of the source keep their gains, and their homes in the target.

    everywhere: the target's other sites get the magnitude that changes nothing, for the dialect has DoRA for all sites
    or for none.
    """

    homes: Mapping[Site, tuple[Site, ...]]
    everywhere: bool = False

    def named(self, conversion_id: str) -> str:
        """Gives the id of a conversion that carries gains: other bytes than without; the same where there are none."""
        return hashlib.sha256(f"{conversion_id} {GAIN_CARRIED}".encode()).hexdigest() if self.homes else conversion_id


NO_GAINS = CarriedGains({})
"""Nothing is carried: every DoRA is lowered."""


@dataclass(frozen=True, slots=True, eq=False)
class SplitAdapter:
    """Is an adapter whose DoRAs of the carried sites are what they add up, dW, and their gains by the source's site.

    gains: (out, 1, ...) where per output, else (1, in, ...), float32.
    """

    adapter: Adapter
    gains: Mapping[Site, Tensor]
    carried: CarriedGains


def carried_gains(adapter: Adapter, plan: Plan, dialect: str) -> CarriedGains:
    """Tells which sites of an adapter can keep their gains under a plan, written in a dialect; needs no weights.

    Those of DoRA whose every home is a weight of as many channels as the gain has, in the same order (every operator on
    that side of the term stays in place), and is a module of its own in the dialect, which has to have DoRA.
    """
    spoken = DIALECTS[dialect]
    rich = {site: update for site, update in adapter.updates.items() if isinstance(update, DoRA)}
    if not rich or "dora" not in spoken.says:
        return NO_GAINS
    alone, homes = _alone(plan.target_base, spoken), _homes(plan)
    as_peft = dialect in _AS_PEFT
    if as_peft and any(home.target not in alone for site in adapter.updates for home in homes[site]):
        return NO_GAINS
    found = {
        site: tuple(home.target for home in homes[site])
        for site, update in rich.items()
        if homes[site]
        and (update.per_output or not as_peft)
        and all(home.target in alone and _matches(home, plan, per_output=update.per_output) for home in homes[site])
    }
    return CarriedGains(found, everywhere=as_peft and bool(found))


def split_gains(adapter: Adapter, carried: CarriedGains, weight: Callable[[Site], Tensor] | None) -> SplitAdapter:
    """Takes the gains out of an adapter: what is left at those sites is the update that is added before the gain.

    weight: gives the weight of a site of the base that the adapter was made for; asked once for each carried site. None
    where it is not at hand: then nothing is taken out.
    """
    if weight is None:
        return SplitAdapter(adapter, {}, NO_GAINS)
    updates: dict[Site, Update] = dict(adapter.updates)
    gains: dict[Site, Tensor] = {}
    for site in carried.homes:
        update = updates[site]
        if not isinstance(update, DoRA):
            raise TypeError(f"{site} has no gain to carry: its update is of algorithm {update.algorithm}")
        gains[site] = update.gain(weight(site))
        updates[site] = update.inner
    return SplitAdapter(dataclasses.replace(adapter, updates=updates), gains, carried)


def with_gains(conversion: Conversion, split: SplitAdapter, weight: Callable[[Site], Tensor]) -> Conversion:
    """Gives the conversion with the gains that were split off, as DoRA, and tells it in the reports of those sites.

    weight: gives the weight of a site of the target base, in its own shape; asked only for sites that become DoRA.
    """
    if not split.gains:
        return conversion
    gains = {home: split.gains[site] for site, homes in split.carried.homes.items() for home in homes}
    updates: dict[Site, Update] = {
        site: _gained(update, gains.get(site), weight(site)) if site in gains or split.carried.everywhere else update
        for site, update in conversion.adapter.low_rank().items()
    }
    algorithms = tuple(sorted({update.algorithm for update in updates.values()}))
    names = {str(site) for site in split.gains}
    sites = tuple(
        dataclasses.replace(report, reason=GAIN_CARRIED) if report.site in names else report
        for report in conversion.sites
    )
    adapter = dataclasses.replace(conversion.adapter, updates=updates, algorithms=algorithms)
    return dataclasses.replace(conversion, adapter=adapter, sites=sites)


def _gained(update: LowRank, gain: Tensor | None, weight: Tensor) -> DoRA:
    if gain is None:
        return DoRA.of_gain(update, torch.ones(len(weight)), weight, per_output=True)
    return DoRA.of_gain(update, gain, weight, per_output=gain.shape[0] == gain.numel())


def _homes(plan: Plan) -> defaultdict[Site, list[PlannedSite]]:
    homes: defaultdict[Site, list[PlannedSite]] = defaultdict(list)
    for planned in plan.sites:
        if planned.source is not None and planned.term is not None:
            homes[planned.source].append(planned)
    return homes


def _matches(planned: PlannedSite, plan: Plan, *, per_output: bool) -> bool:
    shapes = plan.source_base.sites.get(planned.source or planned.target), plan.target_base.sites.get(planned.target)
    if planned.term is None or None in shapes:
        return False
    sizes = {_channels(shape, per_output=per_output) for shape in shapes if shape is not None}
    return len(sizes) == 1 and _keeps_channels(planned.term, sizes.pop(), per_output=per_output)


def _channels(shape: SiteShape, *, per_output: bool) -> int:
    return shape.out_features if per_output else shape.in_features


def _keeps_channels(term: Term, channels: int, *, per_output: bool) -> bool:
    return all(stays_in_place(output if per_output else inward, channels) for output, inward in term.products)


def _alone(base: BaseModel, dialect: Dialect) -> set[Site]:
    """The sites that the dialect has a module for which holds nothing else: factors of parts do not say a gain."""
    first: dict[Site, bool] = {}
    for _, named in dialect.modules(base):
        single = len(named.parts) == 1 and not named.experts
        for part in named.parts:
            first.setdefault(part.site, single and not part.swapped)
    return {site for site, is_alone in first.items() if is_alone and site in base.sites}
