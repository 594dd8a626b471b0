"""From the updates of the sites that a module holds to one update of the whole module: what splitting takes apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce

import torch
from torch import Tensor

from lorax.adapter import LowRank, Site, Update
from lorax.base_model import BaseModel
from lorax.errors import Unsupported
from lorax.naming import NamedModule


def fuse_updates(found: Mapping[Site, Update], named: NamedModule) -> Update:
    """Gives the update of a module whose sites have these updates; sites that have none are not changed.

    Parts with one down factor and one scale share it again; others are stacked, which adds their ranks: rows of the
    down factors one after the other, the up factors block by block along the diagonal.
    Raises Unsupported("unwritable") for updates of a kind that cannot be put together.
    """
    if named.experts:
        return _stacked(found, named)
    if len(named.parts) == 1:
        (part,) = named.parts
        update = found[part.site]
        if not part.swapped:
            return _in_shape(update, named)
        single = _factors(update, part.site)
        return replace(single, up=torch.cat(single.up.chunk(2)[::-1]))
    factors = {site: _factors(update, site) for site, update in found.items()}
    shared = _shared_down(list(factors.values()))
    return _side_by_side(factors, named) if shared else _block_diagonal(factors, named)


def fuse_vectors(found: Mapping[Site, Tensor], named: NamedModule, base: BaseModel, leaf: str) -> Tensor:
    """Gives the change of a module's bias or norm weight (leaf "bias" or "weight"); parts without one are zeros."""
    pieces = []
    for part in named.parts:
        site = Site(part.site.component, f"{part.site.path}.{leaf}")
        vector = found[site] if site in found else torch.zeros(base.vectors[site])
        pieces.append(torch.cat(vector.chunk(2)[::-1]) if part.swapped else vector)
    return torch.cat(pieces)


def _in_shape(update: Update, named: NamedModule) -> Update:
    """A low-rank update in the shape of this base's weight: a 1x1 convolution may be a linear layer elsewhere."""
    if not isinstance(update, LowRank) or named.shape is None or update.kernel == named.shape.kernel:
        return update
    taps = [math.prod(kernel or (1,)) for kernel in (update.kernel, named.shape.kernel)]
    return replace(update, kernel=named.shape.kernel) if taps == [1, 1] else update


def _factors(update: Update, site: Site) -> LowRank:
    factors = update.low_rank()
    if factors is None:
        raise Unsupported(
            "unwritable",
            f"{site} is a part of a fused weight there, and an update of algorithm {update.algorithm} cannot be put "
            "together with others; write it in a dialect that names the parts, or lower it to LoRA first",
        )
    return factors


def _shared_down(updates: Sequence[LowRank]) -> bool:
    first = updates[0]
    return len(updates) > 1 and all(
        other.scale == first.scale
        and other.rank == first.rank
        and other.down.dtype == first.down.dtype
        and torch.equal(other.down, first.down)
        for other in updates[1:]
    )


def _rows(named: NamedModule) -> dict[Site, slice]:
    return {part.site: slice(*(part.rows or (0, 0))) for part in named.parts}


def _height(named: NamedModule) -> int:
    return max(part.rows[1] for part in named.parts if part.rows is not None)


def _widest(found: Mapping[Site, LowRank]) -> torch.dtype:
    """The element type that holds the up factors of all parts: some may be halves."""
    return reduce(torch.promote_types, (update.up.dtype for update in found.values()))


def _side_by_side(found: Mapping[Site, LowRank], named: NamedModule) -> LowRank:
    first = next(iter(found.values()))
    up = first.up.new_zeros(_height(named), first.rank, dtype=_widest(found))
    for site, rows in _rows(named).items():
        if site in found:
            up[rows] = found[site].up
    return replace(first, up=up)


def _block_diagonal(found: Mapping[Site, LowRank], named: NamedModule) -> LowRank:
    first = next(iter(found.values()))
    scale = first.scale if all(update.scale == first.scale for update in found.values()) else 1.0
    up = first.up.new_zeros(_height(named), sum(update.rank for update in found.values()), dtype=_widest(found))
    downs, position = [], 0
    for site, rows in _rows(named).items():
        if site not in found:
            continue
        update = found[site]
        own = update.up if scale == update.scale else update.up * (update.scale / scale)
        up[rows, position : position + update.rank] = own
        downs.append(update.down)
        position += update.rank
    return LowRank(up, torch.cat(downs), scale, first.kernel)


def _stacked(found: Mapping[Site, Update], named: NamedModule) -> LowRank:
    """Experts in peft's order: down (experts*rank, in) expert by expert, up (out, rank*experts) by rank."""
    factors = {site: _factors(update, site) for site, update in found.items()}
    first = next(iter(factors.values()))
    if any(other.rank != first.rank or other.scale != first.scale for other in factors.values()):
        message = f"the experts of {named.path} have several ranks or scales; one for all can be written"
        raise Unsupported("unwritable", message)
    nothing = replace(first, up=torch.zeros_like(first.up), down=torch.zeros_like(first.down))
    parts = [factors.get(part.site, nothing) for part in named.parts]
    up = torch.stack([part.up for part in parts], dim=-1).flatten(1)
    return LowRank(up, torch.cat([part.down for part in parts]), first.scale)
