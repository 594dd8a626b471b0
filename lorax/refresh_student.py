"""The student of a refresh: an adapter whose factors are being trained, on a base whose weights are not."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from lorax.adapter import Adapter, LowRank, Site

_LEAST_SCALE = 1e-3
"""A scale below it is not made up for any further."""


class Student:
    """Holds the factors of an adapter as trainable tensors, float32; scale, kernel, rank and vectors stay as they are.

    Raises TypeError for an adapter with updates that were not lowered.
    """

    def __init__(self, start: Adapter, *, device: torch.device) -> None:
        self._start = start
        self._updates = {site: _balanced(update) for site, update in sorted(start.low_rank().items())}
        self.ups = {site: _leaf(update.up, device) for site, update in self._updates.items()}
        self.downs = {site: _leaf(update.down, device) for site, update in self._updates.items()}

    def adapter(self) -> Adapter:
        """Returns the adapter as it is now; gradients reach the factors through it."""
        return replace(self._start, updates=dict(self._now()))

    def optimiser(self, rate: float, *, up_rate: float, text_rate: float) -> torch.optim.Optimizer:
        """Returns AdamW over the factors; each group tells its highest rate.

        That is `rate` for down factors of updates with scale 1, for up factors times `up_rate`, in text encoders times
        `text_rate`. A small scale is made up for, so that all updates move alike.
        """
        by_rate: dict[float, list[Tensor]] = defaultdict(list)
        for factors, share in ((self.ups, up_rate), (self.downs, 1.0)):
            for site, factor in factors.items():
                by_rate[self._rate(site, text_rate) * rate * share].append(factor)
        groups = [{"params": factors, "highest": highest} for highest, factors in by_rate.items()]
        return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True)

    def _rate(self, site: Site, text_rate: float) -> float:
        share = text_rate if site.component.startswith("text_encoder") else 1.0
        return share / math.sqrt(max(abs(self._updates[site].scale), _LEAST_SCALE))

    def _now(self) -> Iterator[tuple[Site, LowRank]]:
        for site, update in self._updates.items():
            yield site, replace(update, up=self.ups[site], down=self.downs[site])

    def copied(self) -> Adapter:
        """Returns the adapter as it is now, on the CPU, out of reach of what is trained later."""
        updates = {
            site: replace(update, up=update.up.detach().cpu().clone(), down=update.down.detach().cpu().clone())
            for site, update in self._now()
        }
        return replace(self._start, updates=updates)


def _leaf(factor: Tensor, device: torch.device) -> Tensor:
    return factor.detach().float().to(device, copy=True).requires_grad_()


def _balanced(update: LowRank) -> LowRank:
    """The same update with factors of equal strength: one step of training then moves both alike.

    Operators of a plan may leave one factor long and the other short, and directions of one update unlike.
    """
    up, down = update.up.double(), update.down.double()
    left, high = torch.linalg.qr(up)
    right, low = torch.linalg.qr(down.mT)
    first, values, second = torch.linalg.svd(high @ low.mT)
    if not bool(values.any()):
        return update
    root = values.sqrt()
    longer, wider = left @ first * root, root[:, None] * second @ right.mT
    return replace(update, up=longer.to(update.up.dtype), down=wider.to(update.down.dtype))
