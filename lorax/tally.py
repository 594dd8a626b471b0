"""What was seen of each conversion, as sums per sample: samples can be added until a verdict is certain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lorax.score_card import CONVERTED
from lorax.scorer import Figure, interval
from lorax.scorers import SCORERS

LEADING = "divergence_gain"

Sums = Mapping[str, Mapping[str, Tensor]]
"""By candidate and figure, (samples, k) float64."""


def scorer_of(figure: str) -> str:
    """Returns the scorer of a figure: looks of one view are told apart after a colon, `likeness:dinov2`."""
    return figure.partition(":")[0]


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """Sums per sample of every candidate and figure."""

    sums: Sums

    def with_more(self, other: Tally) -> Tally:
        """Returns both tallies as one, of the same candidates; figures that the other lacks stay as they are."""
        return Tally({candidate: _added(own, other.sums[candidate]) for candidate, own in self.sums.items()})

    @property
    def samples(self) -> int:
        """Counts the samples that the leading figure was measured on."""
        return max((len(own[LEADING]) for own in self.sums.values() if LEADING in own), default=0)

    def figures(self) -> dict[str, dict[str, Figure]]:
        """Returns every figure with its interval, but for those that mean nothing on these samples."""
        return {candidate: _figures(own) for candidate, own in self.sums.items()}

    def margins(self) -> dict[str, Figure]:
        """Returns by how much the leading figure of the conversion exceeds each rival's, on the same samples."""
        if LEADING not in self.sums.get(CONVERTED, {}):
            return {}
        own = self.sums[CONVERTED][LEADING]
        width = own.shape[1]
        figure = SCORERS[LEADING].figure

        def lead(both: Tensor) -> Tensor:
            return figure(both[..., :width]) - figure(both[..., width:])

        return {
            name: interval(lead, torch.cat([own, sums[LEADING]], dim=1))
            for name, sums in self.sums.items()
            if name != CONVERTED
        }


def _figures(own: Mapping[str, Tensor]) -> dict[str, Figure]:
    scorers = {name: SCORERS[scorer_of(name)] for name in own}
    return {name: interval(scorers[name].figure, sums) for name, sums in own.items() if scorers[name].defined(sums)}


def _added(own: Mapping[str, Tensor], more: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.cat([sums, more[name]]) if name in more else sums for name, sums in own.items()}
