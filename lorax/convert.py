"""Applies a plan to adapters: the hot path. Needs no base, forms no dense update, keeps every rank.

The updates of all adapters at one site are stacked along the rank axis, so that each operator is applied once per site
by one large product: 2·(out_t·out_s + in_t·in_s·taps)·(sum of ranks) multiplications for dense operators.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lorax.adapter import Adapter, BaseVerdict, LowRank, Site
from lorax.base_model import BaseModel
from lorax.errors import Unsupported
from lorax.linear_algebra import product_norms
from lorax.method import Term
from lorax.plan import Plan


@dataclass(frozen=True, slots=True)
class SiteReport:
    """What became of one site of an adapter; `kept_norm` is ||update after|| / ||update before||, 0 where dropped."""

    site: str
    target: str | None
    kept_norm: float
    reason: str


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
    reports: list[dict[Site, SiteReport]] = [{} for _ in adapters]
    for planned in plan.sites:
        if planned.source is None:
            continue
        holders = [index for index, own in enumerate(factors) if planned.source in own]
        if not holders:
            continue
        before = [factors[index][planned.source] for index in holders]
        after = _carry(before, planned.term) if planned.term is not None else [None] * len(before)
        for index, now, kept in zip(holders, after, _kept_norms(before, after), strict=True):
            home = str(planned.target) if now is not None else None
            reports[index][planned.source] = SiteReport(str(planned.source), home, kept, planned.reason)
            if now is not None:
                updates[index][planned.target] = now
    return [
        _conversion(plan, adapter, target=target, updates=found, reports=report | _vector_reports(adapter, target))
        for adapter, found, report in zip(adapters, updates, reports, strict=True)
    ]


def norm_shares(adapter: Adapter, conversion: Conversion) -> NormShares:
    """Returns how much of the adapter's squared norm was kept and how much had nowhere to go."""
    before, after = _squared_norms(adapter), _squared_norms(conversion.adapter)
    total = sum(before.values())
    homeless = {report.site for report in conversion.sites if report.target is None}
    dropped = sum(norm for site, norm in before.items() if str(site) in homeless)
    return NormShares(kept=sum(after.values()) / total if total else 0.0, dropped=dropped / total if total else 0.0)


def _squared_norms(adapter: Adapter) -> dict[Site, float]:
    factors = adapter.low_rank()
    norms = product_norms([(update.up, update.down) for update in factors.values()])
    return {site: (update.scale * norm) ** 2 for (site, update), norm in zip(factors.items(), norms, strict=True)}


def _carry(updates: Sequence[LowRank], term: Term) -> list[LowRank]:
    """Applies a term to all updates of one site at once."""
    ranks = [update.rank for update in updates]
    ups = torch.split(term.output.apply(torch.cat([update.up for update in updates], dim=1)), ranks, dim=1)
    downs = torch.cat([update.down for update in updates], dim=0)
    kernel = updates[0].kernel
    taps = kernel[0] * kernel[1] if kernel is not None and term.per_channel else 1
    carried = torch.split(_apply_to_rows(term, downs, taps), ranks, dim=0)
    return [
        replace(update, up=up.contiguous(), down=down.contiguous())
        for update, up, down in zip(updates, ups, carried, strict=True)
    ]


def _apply_to_rows(term: Term, rows: Tensor, taps: int) -> Tensor:
    """Applies the input operator to rows (k, in·taps), on the channels where taps > 1."""
    count = rows.shape[0]
    columns = rows.reshape(count, -1, taps).permute(1, 0, 2).reshape(-1, count * taps)
    moved = term.input.apply(columns)
    return moved.reshape(-1, count, taps).permute(1, 0, 2).reshape(count, -1)


def _kept_norms(before: Sequence[LowRank], after: Sequence[LowRank | None]) -> list[float]:
    """Returns ||update after|| / ||update before|| of each; scales are equal, so factors suffice."""
    carried = [(was, now) for was, now in zip(before, after, strict=True) if now is not None]
    norms = product_norms([(update.up, update.down) for pair in carried for update in pair])
    ratios = iter([now / was if was else 0.0 for was, now in zip(norms[::2], norms[1::2], strict=True)])
    return [next(ratios) if now is not None else 0.0 for now in after]


def _conversion(
    plan: Plan,
    adapter: Adapter,
    *,
    target: BaseModel,
    updates: dict[Site, LowRank],
    reports: dict[Site, SiteReport],
) -> Conversion | Unsupported:
    patched = sorted([*adapter.updates, *adapter.vectors])
    sites = [reports.get(site, SiteReport(str(site), None, 0.0, "no-target-site")) for site in patched]
    if not updates and plan.method != "zero":
        return Unsupported(
            "no-common-site",
            f"None of the adapter's {len(sites)} sites has a home in {target.name}. First: {sites[0].site}. "
            "Choose a method that bridges different shapes, or another target.",
        )
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


def _vector_reports(adapter: Adapter, target: BaseModel) -> dict[Site, SiteReport]:
    """Changes of biases and norms are copied where the target has the same parameter; no method moves them."""
    return {
        site: SiteReport(str(site), str(site), 1.0, "vector-copied")
        if target.vectors.get(site) == len(vector)
        else SiteReport(str(site), None, 0.0, "no-target-site")
        for site, vector in adapter.vectors.items()
    }
