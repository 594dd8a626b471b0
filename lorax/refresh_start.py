"""What a refresh starts from where a conversion left sites empty: updates that change nothing yet, to be learnt."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

import torch

from lorax.adapter import Adapter, LowRank, Site, SiteShape
from lorax.base_model import BaseModel


def completed(start: Adapter, adapter: Adapter, target: BaseModel, matches: Mapping[Site, Site | str]) -> Adapter:
    """Returns `start` with an update of zero at every target site whose source has one in `adapter`, but not it.

    adapter: of the source, lowered; matches: of target sites with source sites, as of lorax.base_pair.pairing. Ranks
    and scales are those of the source's updates.
    """
    there = adapter.low_rank()
    fresh: dict[Site, LowRank] = {
        site: untaught(site, target.sites[site], like=there[origin])
        for site, origin in matches.items()
        if isinstance(origin, Site) and origin in there and site not in start.updates
    }
    return replace(start, updates={**start.low_rank(), **fresh})


def untaught(site: Site, shape: SiteShape, *, like: LowRank) -> LowRank:
    """Returns an update of zero for a site: up is zero, down uniform within 1/sqrt(columns) as LoRA begins.

    The numbers are drawn from the site's name: equal sites begin equally on every machine.
    """
    seed = int.from_bytes(hashlib.sha256(str(site).encode()).digest()[:7])
    drawn = torch.rand(like.rank, shape.columns, generator=torch.Generator().manual_seed(seed))
    down = (2 * drawn - 1) / shape.columns**0.5
    return LowRank(torch.zeros(shape.out_features, like.rank), down, like.scale, shape.kernel)
