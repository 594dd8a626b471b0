"""One pair of sites, and a pair of two-layer models that say the same in different hidden bases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lorax.adapter import Site, SiteShape
from lorax.method import NoTerm, Setting, SiteInputs, SiteStatistics, Term
from lorax.methods import METHODS
from lorax.plan import merged_settings

WIDTH = 12


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def compile_toy(
    method: str,
    source: Tensor,
    target: Tensor,
    *,
    settings: dict[str, Setting] | None = None,
    statistics: SiteStatistics | None = None,
) -> Term | NoTerm:
    """Returns what a method makes of two weights and, where it asks for them, statistics."""
    site = Site("unet", "toy")
    inputs = SiteInputs(
        target=site,
        source=site,
        target_shape=SiteShape.of(tuple(target.shape)),
        source_shape=SiteShape.of(tuple(source.shape)),
        target_weight=lambda: target,
        source_weight=lambda: source,
        statistics=statistics,
        generator=torch.Generator().manual_seed(0),
    )
    chosen = METHODS[method]
    return chosen.compile_site(inputs, merged_settings(chosen, settings or {}))


def carry(term: Term | NoTerm, update: Tensor, *, to: Tensor) -> Tensor:
    """Returns the sum of O·dW·I of a linear layer's update, zeros shaped like `to` where there is no term."""
    if isinstance(term, NoTerm):
        return torch.zeros_like(to)
    return torch.stack([each.input.apply(each.output.apply(update).T).T for each in term.products]).sum(0)


def sums(inputs: tuple[Tensor, Tensor], gradients: tuple[Tensor, Tensor]) -> SiteStatistics:
    """Returns statistics from rows of (source, target) inputs and gradients, the second half held out."""
    # In float64 from the start: a hidden basis wider than what is in it leaves directions of pure rounding error.
    rows = [rows.double() for rows in (*inputs, *gradients)]
    halves = [(rows[0][start::2], rows[1][start::2], rows[2][start::2], rows[3][start::2]) for start in (0, 1)]
    return half(*halves[0]).plus(replace(half(*halves[1]), held_out=half(*halves[1])))


def half(here: Tensor, there: Tensor, pull_here: Tensor, pull_there: Tensor) -> SiteStatistics:
    return SiteStatistics(
        there.T @ there,
        there.T @ here,
        pull_there.T @ pull_there,
        pull_there.T @ pull_here,
        float(here.square().sum()),
        float(pull_here.square().sum()),
    )


@dataclass(frozen=True, eq=False)
class TwoLayers:
    """The model y = second · f(first · x), f the identity or a rectifier."""

    first: Tensor
    second: Tensor
    rectified: bool

    def hidden(self, inputs: Tensor) -> Tensor:
        before = inputs @ self.first.T
        return before.relu() if self.rectified else before

    def __call__(self, inputs: Tensor) -> Tensor:
        return self.hidden(inputs) @ self.second.T

    def patched(self, first: Tensor, second: Tensor) -> TwoLayers:
        return TwoLayers(self.first + first, self.second + second, self.rectified)

    def gradient(self, inputs: Tensor, pull: Tensor) -> Tensor:
        """Returns the gradient of <pull, y> at the first layer's output."""
        back = pull @ self.second
        return back * (inputs @ self.first.T > 0) if self.rectified else back


def rotation(rows: int = WIDTH) -> Tensor:
    """Returns an isometry from WIDTH dimensions to `rows`."""
    return torch.linalg.qr(random(rows, WIDTH, seed=7))[0]


# How the hidden basis of the target lies to that of the source: map, its inverse, is there a rectifier between?
GAUGES: dict[str, Callable[[], tuple[Tensor, Tensor, bool]]] = {
    "rotated": lambda: (rotation(), rotation().T, False),
    "renumbered": lambda: (_shuffle(), _shuffle().T, True),
    "rescaled": lambda: (torch.diag(_factors()), torch.diag(1 / _factors()), True),
    "widened": lambda: (rotation(WIDTH + 4), rotation(WIDTH + 4).T, False),
}


def _shuffle() -> Tensor:
    return torch.eye(WIDTH)[torch.randperm(WIDTH, generator=torch.Generator().manual_seed(3))]


def _factors() -> Tensor:
    return torch.logspace(-0.5, 0.5, WIDTH)


def gauge_error(method: str, gauge: str, settings: dict[str, Setting]) -> float:
    """Returns how far target + converted is from source + adapter, relative to what the adapter does.

    The two models are one function, written in two hidden bases.
    """
    turn, back, rectified = GAUGES[gauge]()
    source = TwoLayers(random(WIDTH, WIDTH, seed=1), random(WIDTH, WIDTH, seed=2), rectified)
    target = TwoLayers(turn @ source.first, source.second @ back, rectified)
    probe, pull = random(600, WIDTH, seed=3), random(600, WIDTH, seed=4)
    gradients = (source.gradient(probe, pull), target.gradient(probe, pull))
    first = sums((probe, probe), gradients)
    second = sums((source.hidden(probe), target.hidden(probe)), (pull, pull))
    updates = [0.3 * random(WIDTH, 2, seed=seed) @ random(2, WIDTH, seed=seed + 1) for seed in (5, 8)]
    terms = [
        compile_toy(method, source.first, target.first, settings=settings, statistics=first),
        compile_toy(method, source.second, target.second, settings=settings, statistics=second),
    ]
    moved = [
        carry(term, update, to=weight)
        for term, update, weight in zip(terms, updates, (target.first, target.second), strict=True)
    ]
    shown = random(50, WIDTH, seed=9)
    wanted = source.patched(*updates)(shown)
    return float((target.patched(*moved)(shown) - wanted).norm() / (wanted - source(shown)).norm())
