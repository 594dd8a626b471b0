"""Applies a plan to adapters: the hot path. Needs no base, forms no dense update, keeps every rank.

The updates of all adapters at one site are stacked along the rank axis, so that each operator is applied once per site
by one large product: 2·(out_t·out_s + in_t·in_s·taps)·(sum of ranks) multiplications for dense operators.

What is carried are factors: updates of other algorithms are lowered first, on the base that they were made for. LoHa,
LoKr, LoRA-X and SVDiff of few shifts lose nothing by it, up to the rank allowed. DoRA does, being of full rank: at
width 320, rank 64 and factors of 5 % of the weight's norm, .1, 1, 8 and 23 % of the squared norm for gains that spread
by .3, 1, 3 and 10 % (forgetting the magnitude, as other converters do, loses .4, 4, 28 and 81 %). So where both bases
are at hand and channels stay in place, its gains go round the plan and not through it: see lorax.gains.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from lorax.adapter import Adapter, BaseVerdict, LowRank, Site, SiteShape
from lorax.base_model import BaseModel
from lorax.errors import Unsupported
from lorax.method import Term
from lorax.operators import Identity, Operator
from lorax.placement import place_of
from lorax.plan import Plan, PlannedSite
from lorax.recompression import added, recompressed

_SITES_AT_ONCE = 32
"""Sites whose norms are worth a thread."""
_LEAST_KEPT = 1e-4
"""An update of which a map keeps a smaller share of its norm is mostly rounding; it is not blown up."""


@dataclass(frozen=True, slots=True)
class SiteReport:
    """What became of one site of an adapter.

    target: its home, several joined by a comma, None where it has none; kept_norm: ||update after|| over ||update
    before||, 0 where it was dropped; norm: of the update before, 0 for a vector;
    lost: the share of the squared norm of what came out that was cut where a sum of terms had a higher rank than the
    update, of several homes the largest.
    """

    site: str
    target: str | None
    kept_norm: float
    reason: str
    norm: float = 0.0
    lost: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Conversion:
    """An adapter for the target base, and how it came about."""

    adapter: Adapter
    sites: tuple[SiteReport, ...]
    plan_id: str

    @property
    def sites_mapped(self) -> int:
        """Number of the source adapter's sites that found a home."""
        return sum(1 for site in self.sites if site.target is not None)


@dataclass(frozen=True, slots=True)
class NormShares:
    """Shares of the source adapter's squared norm: kept (may exceed 1) and dropped for want of a target site."""

    kept: float
    dropped: float


def conversion_id(weights_sha256: str, *, plan: Plan, target: BaseModel, dialect: str, dtype: str) -> str:
    """Returns the sha256 over all that decides a conversion's bytes; the key of publication."""
    body = [weights_sha256, plan.key, target.fingerprint, dialect, dtype]
    return hashlib.sha256(json.dumps(body).encode()).hexdigest()


def convert_adapters(
    plan: Plan, adapters: Sequence[Adapter], *, target: BaseModel | None = None
) -> list[Conversion | Unsupported]:
    """Converts all `adapters` (for the plan's source base) in one pass over the plan's sites.

    target: the base they are for under another name or with other labels than the plan has for it.
    An adapter of which not one site has a home comes back as Unsupported("no-common-site"), in its place in the list,
    so that it does not cost the others their turn.
    """
    target = plan.target_base if target is None else target
    factors = [adapter.low_rank() for adapter in adapters]
    updates: list[dict[Site, LowRank]] = [{} for _ in adapters]
    norms = _Norms()
    moved: list[tuple[Site, list[int], _Stack]] = []
    for planned in plan.sites:
        holders = [index for index, own in enumerate(factors) if planned.source in own]
        if planned.source is None or not holders:
            continue
        before = _Stack([factors[index][planned.source] for index in holders])
        after = before.through(planned.term) if planned.term is not None else None
        norms.add(planned, holders, before, after)
        if after is not None:
            moved.append((planned.target, holders, after))
    # After the last product is under way: an accelerator is not waited for site by site.
    for site, holders, after in moved:
        shape = plan.target_base.sites.get(site)
        for index, now in zip(holders, after.in_main_memory().split(), strict=True):
            updates[index][site] = _in_shape(now, shape)
    carried = norms.reports(len(adapters))
    return [
        _conversion(plan, adapter, target=target, updates=found, reports=_completed(adapter, known, target))
        for adapter, found, known in zip(adapters, updates, carried, strict=True)
    ]


def norm_shares(conversion: Conversion) -> NormShares:
    """Returns how much of the adapter's squared norm was kept and how much had nowhere to go, from the report alone."""
    total = sum(report.norm**2 for report in conversion.sites)
    if not total:
        return NormShares(0.0, 0.0)
    kept = sum((report.kept_norm * report.norm) ** 2 for report in conversion.sites)
    dropped = sum(report.norm**2 for report in conversion.sites if report.target is None)
    return NormShares(kept / total, dropped / total)


@dataclass(frozen=True, eq=False)
class _Stack:
    """Holds the updates of all adapters at one site, side by side: ups (out, ranks), downs (ranks, columns).

    moved: both, where they are no longer those of the updates, which else are neither stacked nor cast before somebody
    computes with them; lost: of each update, the share of its squared norm that was cut with its rank; empty where no
    rank was.
    """

    updates: Sequence[LowRank]
    moved: tuple[Tensor, Tensor] | None = None
    lost: tuple[Tensor, ...] = ()

    @cached_property
    def ups(self) -> Tensor:
        """The up factors, float32 at least."""
        return self.moved[0] if self.moved is not None else _joined_up([update.up for update in self.updates], 1)

    @cached_property
    def downs(self) -> Tensor:
        """The down factors, float32 at least."""
        return self.moved[1] if self.moved is not None else _joined_up([update.down for update in self.updates], 0)

    def through(self, term: Term) -> _Stack:
        """Applies a term to all updates at once; gives itself where that changes nothing."""
        plain = isinstance(term.output, Identity) and isinstance(term.input, Identity)
        if plain and term.norm_ratio is None and not term.also:
            return self
        kernel = self.updates[0].kernel
        taps = math.prod(kernel) if kernel is not None and term.per_channel else 1
        ups, downs = (_beside(factor, term) for factor in (self.ups, self.downs))
        products = [
            _Stack(self.updates, (_single(output.apply(ups)), _single(_on_channels(inward, downs, taps))))
            for output, inward in term.products
        ]
        moved = products[0] if len(products) == 1 else _Stack.sum_of(products, keeps_rank=term.keeps_rank)
        return moved if term.norm_ratio is None else moved.as_long_as(self, term.norm_ratio)

    def as_long_as(self, before: _Stack, ratio: float) -> _Stack:
        """Brings each update to `ratio` times its norm before; one that the map took away but for rounding stays."""
        now = self.squares()
        was = before.squares().to(now.device)
        factors = torch.where(now > _LEAST_KEPT**2 * was, ratio * (was / now).sqrt(), 1.0)
        ranks = torch.tensor([update.rank for update in self.updates], device=factors.device)
        return _Stack(self.updates, (self.ups * factors.repeat_interleave(ranks), self.downs), self.lost)

    def in_main_memory(self) -> _Stack:
        """Gives the same updates where adapters lie; itself where they are there already."""
        if self.moved is not None:
            return self if self.ups.is_cpu else _Stack(self.updates, (self.ups.cpu(), self.downs.cpu()), self.lost)
        here = [replace(update, up=update.up.cpu(), down=update.down.cpu()) for update in self.updates]
        return _Stack(here, None, self.lost)

    @classmethod
    def sum_of(cls, products: Sequence[_Stack], *, keeps_rank: bool) -> _Stack:
        """Adds up the summands of each update, and cuts the sum to the rank that it had or could have at most."""
        sums = [
            recompressed(added(parts), rank=parts[0].rank if keeps_rank else None)
            for parts in zip(*(product.split() for product in products), strict=True)
        ]
        return cls([update for update, _ in sums], lost=tuple(lost for _, lost in sums))

    def split(self) -> list[LowRank]:
        """Gives each adapter its own part: what it came with where nothing was done, else a view of the whole."""
        if self.moved is None:
            return list(self.updates)
        ranks = [update.rank for update in self.updates]
        parts = zip(self.updates, torch.split(self.ups, ranks, 1), torch.split(self.downs, ranks), strict=True)
        return [replace(update, up=up, down=down) for update, up, down in parts]

    def squares(self) -> Tensor:
        """Gives ||up·down||^2 of each update, without its scale, from (rank, rank) Gram matrices: no product forms."""
        count, ranks = len(self.updates), {update.rank for update in self.updates}
        if len(ranks) > 1 or "ups" not in self.__dict__:
            return torch.stack([_square(update) for update in self.split()])
        ups = self.ups.reshape(-1, count, ranks.pop()).permute(1, 2, 0)
        downs = self.downs.reshape(count, ups.shape[1], -1)
        return (torch.bmm(ups, ups.mT).mul_(torch.bmm(downs, downs.mT))).sum((1, 2)).clamp_min_(0)


def _squares(before: _Stack, after: _Stack | None) -> tuple[Tensor, Tensor]:
    """The squared norms of updates, and of what became of them."""
    squares = before.squares()
    if after is None:
        return squares, torch.zeros_like(squares)
    return squares, squares if after is before else after.squares()


def _square(update: LowRank) -> Tensor:
    up, down = _joined_up([update.up], 1), _joined_up([update.down], 0)
    return torch.dot((up.mT @ up).view(-1), (down @ down.mT).view(-1)).clamp_min_(0)


def _joined_up(factors: Sequence[Tensor], dim: int) -> Tensor:
    """Factors side by side, halves in float32: cast once, when all are together."""
    return _single(torch.cat(list(factors), dim) if len(factors) > 1 else factors[0])


def _single(factor: Tensor) -> Tensor:
    """The factor in float32 at least."""
    return factor.float() if factor.itemsize < 4 else factor


def _beside(factor: Tensor, term: Term) -> Tensor:
    """The factor where the operators of a term lie, in their element type."""
    place = place_of(operator for product in term.products for operator in product)
    return factor if place is None else factor.to(*place)


def _on_channels(operator: Operator, rows: Tensor, taps: int) -> Tensor:
    """Applies an operator to rows (k, in·taps) from the right, on channels alone where taps > 1."""
    if taps == 1:
        return operator.apply_rows(rows)
    count = rows.shape[0]
    by_tap = rows.reshape(count, -1, taps).permute(0, 2, 1).reshape(count * taps, -1)
    return operator.apply_rows(by_tap).reshape(count, taps, -1).permute(0, 2, 1).reshape(count, -1)


def _in_shape(update: LowRank, shape: SiteShape | None) -> LowRank:
    """The update with the kernel of its new weight: a 1x1 convolution here may be a linear layer there."""
    if shape is None or update.kernel == shape.kernel:
        return update
    return replace(update, kernel=shape.kernel)


class _Norms:
    """Gathers the norms of updates before and after, which another thread computes while products are formed here."""

    def __init__(self) -> None:
        self._rows: list[tuple[PlannedSite, int, float]] = []
        self._waiting: list[tuple[_Stack, _Stack | None]] = []
        self._squares: list[Future[list[tuple[Tensor, Tensor]]]] = []
        self._elsewhere = ThreadPoolExecutor(1)
        self._lost: dict[int, Tensor] = {}

    def add(self, planned: PlannedSite, holders: Sequence[int], before: _Stack, after: _Stack | None) -> None:
        """Takes one site of the plan. holders: which adapters have it, in the order of the stacks."""
        if after is not None:
            self._lost |= dict(enumerate(after.lost, start=len(self._rows)))
        scales = [abs(update.scale) for update in before.updates]
        self._rows += [(planned, index, scale) for index, scale in zip(holders, scales, strict=True)]
        self._waiting.append((before, after))
        if len(self._waiting) == _SITES_AT_ONCE:
            self._begin()

    def _begin(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._squares.append(self._elsewhere.submit(lambda: [_squares(*stacks) for stacks in waiting]))

    def reports(self, adapters: int) -> list[dict[Site, SiteReport]]:
        """Gives, for each of the adapters, what became of its sites that the plan knows."""
        found: list[dict[Site, SiteReport]] = [{} for _ in range(adapters)]
        if not self._rows:
            return found
        self._begin()
        self._elsewhere.shutdown()
        squares = zip(*(pair for some in self._squares for pair in some.result()), strict=True)
        before, after = (torch.cat([some.cpu() for some in each]).sqrt().tolist() for each in squares)
        for row, ((planned, index, scale), was, now) in enumerate(zip(self._rows, before, after, strict=True)):
            site, home = planned.source or planned.target, str(planned.target) if planned.term is not None else None
            lost = float(self._lost.get(row, 0.0))
            report = SiteReport(str(site), home, now / was if was else 0.0, planned.reason, was * scale, lost)
            found[index][site] = _joined(found[index][site], report) if site in found[index] else report
        return found


def _joined(first: SiteReport, second: SiteReport) -> SiteReport:
    """What became of a site that feeds several of the target's."""
    homes = [report.target for report in (first, second) if report.target is not None]
    return replace(
        first,
        target=", ".join(homes) or None,
        kept_norm=math.hypot(first.kept_norm, second.kept_norm),
        reason=first.reason and second.reason,
        lost=max(first.lost, second.lost),
    )


def _conversion(
    plan: Plan,
    adapter: Adapter,
    *,
    target: BaseModel,
    updates: dict[Site, LowRank],
    reports: dict[Site, SiteReport],
) -> Conversion | Unsupported:
    patched = sorted([*adapter.updates, *adapter.vectors])
    sites = [reports[site] for site in patched]
    if not updates and plan.method != "zero":
        return _nothing_moved(sites, target)
    evidence = (f"converted from {plan.source} by {plan.method}, plan {plan.plan_id[:12] or plan.key[:12]}",)
    verdict = BaseVerdict(target.name, target.family, target.version, evidence)
    vectors = {site: vector for site, vector in adapter.vectors.items() if reports[site].target is not None}
    moved = replace(
        adapter,
        updates=updates,
        vectors=vectors,
        saved={},
        algorithms=("lora",),
        base=verdict,
        weights_sha256="",
        unmappable=(),
        notes=(),
    )
    return Conversion(moved, tuple(sites), plan.plan_id)


def _nothing_moved(sites: Sequence[SiteReport], target: BaseModel) -> Unsupported:
    if any(site.reason == "would-harm" for site in sites):
        return Unsupported(
            "would-harm",
            f"At none of the adapter's {len(sites)} sites does an update keep its effect in {target.name}, as far as "
            "the probe can tell. Choose `refresh`, or another target.",
        )
    return Unsupported(
        "no-common-site",
        f"None of the adapter's {len(sites)} sites has a home in {target.name}. First: {sites[0].site}. "
        "Choose a method that bridges different shapes, or another target.",
    )


def _completed(adapter: Adapter, known: dict[Site, SiteReport], target: BaseModel) -> dict[Site, SiteReport]:
    """What became of every site and vector of an adapter, those that the plan does not know included."""
    homeless = {
        site: SiteReport(str(site), None, 0.0, "no-target-site", update.norm())
        for site, update in adapter.low_rank().items()
        if site not in known
    }
    return known | homeless | _vector_reports(adapter, target)


def _vector_reports(adapter: Adapter, target: BaseModel) -> dict[Site, SiteReport]:
    """Changes of biases and norms are copied where the target has the same parameter; no method moves them."""
    return {
        site: SiteReport(str(site), str(site), 1.0, "vector-copied")
        if target.vectors.get(site) == len(vector)
        else SiteReport(str(site), None, 0.0, "no-target-site")
        for site, vector in adapter.vectors.items()
    }
