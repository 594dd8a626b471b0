"""What a weight scorer is: one figure of a conversion from the weights of adapters alone, without any model.

Honest about being the weakest: a conversion can have the right size, place and directions and still do nothing, for
what a direction means is the base's own. These figures tell what a file lacks, not what it does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from lorax.adapter import LowRank, Site
from lorax.base_model import BaseModel
from lorax.correspondence import Matches

if TYPE_CHECKING:
    from lorax.plan import Plan


@dataclass(frozen=True, eq=False)
class WeightCase:
    """An adapter of the source and its conversion, both of low-rank updates only.

    matches: of the pair, as of lorax.base_pair.pairing; plan: that the conversion was made by, None where it is not
    known or has been gone on from.
    """

    adapter: Mapping[Site, LowRank]
    converted: Mapping[Site, LowRank]
    matches: Matches
    source: BaseModel
    target: BaseModel
    plan: Plan | None = None

    @cached_property
    def homes(self) -> dict[Site, Site]:
        """The adapter's sites that have a home in the target, by the home's site."""
        return {
            home: origin
            for home, origin in sorted(self.matches.items())
            if isinstance(origin, Site) and origin in self.adapter
        }

    @cached_property
    def before(self) -> dict[Site, float]:
        """The squared norms of the adapter's updates, by the source's site."""
        return {site: update.norm() ** 2 for site, update in self.adapter.items()}

    @cached_property
    def after(self) -> dict[Site, float]:
        """The squared norms of the conversion's updates, by the target's site."""
        return {site: update.norm() ** 2 for site, update in self.converted.items()}


@dataclass(frozen=True, slots=True, eq=False)
class WeightScorer:
    """One figure of a score card.

    measure(case): None where the figure has no meaning; not a number where the updates that it looks at hold such.
    """

    name: str
    summary: str
    reference: str
    higher_is_better: bool
    measure: Callable[[WeightCase], float | None]
