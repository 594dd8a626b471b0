"""From an update of any algorithm to low-rank factors, which is what methods move, and what that loses.

Where an update is low-rank without its base weight (LoRA, LoHa, LoKr) or with it (LoRA-X, SVDiff of few shifts) the
factors are exact. Others (DoRA, OFT, IA3, SVDiff of all values, a whole change) are formed in full on the base weight
they were trained on, and the best approximation of the rank asked for is kept: that of the largest singular values
(Eckart and Young 1936). DoRA need not come to that: see lorax.gains.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch

from lorax.adapter import Adapter, LowRank, Site, Update
from lorax.errors import Unsupported
from lorax.linear_algebra import EXACT_SVD_LIMIT
from lorax.recompression import recompressed

if TYPE_CHECKING:
    from torch import Tensor

EXACT_RANK = 256
"""Up to this rank exact factors are kept as they are: LoHa and LoKr of rank 16 are of rank 256."""

EXACT_RANK_ON_BASE = 320
"""The same of factors that follow from the base weight: LoRA-X has up to 320 in its paper, each of them trained."""

_OVERSAMPLING = 16
_POWER_STEPS = 6


@runtime_checkable
class LowRankOnBase(Protocol):
    """Is an update whose exact factors follow from the base weight."""

    def low_rank_on(self, weight: Tensor) -> LowRank | None:
        """Gives the exact factors on this weight, (out, in) or (out, in, *kernel); None where they save no rank."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Lowered:
    """Is an update as low-rank factors, and the share of its squared norm that they lack, 0 where they are exact."""

    update: LowRank
    lost: float


@dataclass(frozen=True, slots=True, eq=False)
class LoweredAdapter:
    """Is an adapter of low-rank updates only, and by site what they lack; sites that are exact are not listed."""

    adapter: Adapter
    lost: Mapping[Site, float]

    def lost_share(self) -> float:
        """Gives the share of the squared norm of all updates together that was lost."""
        kept = {site: update.norm() ** 2 for site, update in self.adapter.low_rank().items()}
        lost = sum(kept[site] * share / (1 - share) for site, share in self.lost.items() if share < 1)
        total = sum(kept.values()) + lost
        return lost / total if total > 0 else 0.0


def lower(update: Update, weight: Tensor | None, *, rank: int, exact_rank: int | None = None) -> Lowered:
    """Gives an update as low-rank factors.

    weight: of the base model at the update's site, (out, in) or (out, in, *kernel), None where it is not at hand;
    rank: kept of an update that is not low-rank, and of one whose exact factors are of a rank above exact_rank (None:
    256, or 320 where they follow from the base weight).
    LoRA is never cut: only its rank falls, without loss, to what a matrix of its shape can have.
    Raises Unsupported("needs-base") when the update needs the base weight and there is none.
    """
    exact = _exact(update, weight)
    if exact is not None:
        if exact_rank is None:
            exact_rank = EXACT_RANK_ON_BASE if update.needs_base else EXACT_RANK
        if isinstance(update, LowRank) or exact.rank <= exact_rank:
            return Lowered(_without_surplus(exact), 0.0)
        return _cut_factors(exact, rank)
    if update.needs_base and weight is None:
        message = (
            f"the change that {update.algorithm} makes depends on the base weight, which is not here; "
            "give the base model that the adapter was made for"
        )
        raise Unsupported("needs-base", message)
    return _cut_dense(update.dense(weight), rank, update.kernel)


def lower_adapter(
    adapter: Adapter,
    weight: Callable[[Site], Tensor] | None,
    *,
    rank: int = 64,
    exact_rank: int | None = None,
) -> LoweredAdapter:
    """Gives an adapter whose updates are all low-rank.

    weight: gives the base weight of a site, and is asked only for updates that need one; rank, exact_rank: as in lower.
    Raises Unsupported("needs-base"), naming the site, when an update needs a base weight and weight is None.
    """
    updates: dict[Site, LowRank] = {}
    lost: dict[Site, float] = {}
    for site, update in adapter.updates.items():
        base = weight(site) if weight is not None and update.needs_base else None
        try:
            lowered = lower(update, base, rank=rank, exact_rank=exact_rank)
        except Unsupported as error:
            raise error.at(str(site)) from error
        updates[site] = lowered.update
        if lowered.lost > 0:
            lost[site] = lowered.lost
    return LoweredAdapter(dataclasses.replace(adapter, updates=updates), lost)


def _exact(update: Update, weight: Tensor | None) -> LowRank | None:
    """The update's own factors, where it has some without its base weight or with it."""
    if weight is not None and isinstance(update, LowRankOnBase):
        return update.low_rank_on(weight)
    return update.low_rank()


def _without_surplus(update: LowRank) -> LowRank:
    """The same update with no more rank than a matrix of its shape can have."""
    largest = min(update.out_features, update.columns)
    return _cut_factors(update, largest).update if update.rank > largest else update


def _cut_factors(update: LowRank, rank: int) -> Lowered:
    """Keeps the largest singular values of a product, in float64 until the factors are there."""
    whole = dataclasses.replace(update, up=update.up.double(), down=update.down.double())
    cut, lost = recompressed(whole, rank=rank)
    # New numbers are not rounded to the halves that a file may hold.
    types = [torch.promote_types(factor.dtype, torch.float32) for factor in (update.up, update.down)]
    return Lowered(dataclasses.replace(cut, up=cut.up.to(types[0]), down=cut.down.to(types[1])), float(lost))


def _cut_dense(change: Tensor, rank: int, kernel: tuple[int, ...] | None) -> Lowered:
    matrix = change.flatten(1)
    kept = min(rank, *matrix.shape)
    left, values, right = _leading(matrix, kept)
    # The root on either side keeps both factors in the range of half precision.
    root = values.sqrt()
    lowered = LowRank((left * root).contiguous(), (root[:, None] * right).contiguous(), 1.0, kernel)
    total = float(matrix.double().square().sum())
    held = float(values.double().square().sum())
    lost = max(total - held, 0.0) / total if total > 0 and kept < min(matrix.shape) else 0.0
    return Lowered(lowered, lost)


def _leading(matrix: Tensor, kept: int) -> tuple[Tensor, Tensor, Tensor]:
    """The leading singular directions: exact for small matrices, else by a randomised range with power steps.

    Halko, Martinsson and Tropp (arXiv 0909.4061), algorithms 4.4 and 5.1, with a fixed seed.
    """
    if min(matrix.shape) <= EXACT_SVD_LIMIT // 2 or kept * 4 > min(matrix.shape):
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        return left[:, :kept], values[:kept], right[:kept]
    generator = torch.Generator().manual_seed(0)
    width = kept + _OVERSAMPLING
    basis = torch.randn(matrix.shape[1], width, generator=generator, dtype=matrix.dtype).to(matrix.device)
    for _ in range(_POWER_STEPS):
        basis = torch.linalg.qr(matrix.mT @ torch.linalg.qr(matrix @ basis).Q).Q
    span = torch.linalg.qr(matrix @ basis).Q
    inner, values, right = torch.linalg.svd(span.mT @ matrix, full_matrices=False)
    return (span @ inner)[:, :kept], values[:kept], right[:kept]
