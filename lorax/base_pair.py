"""A base pair: which source site feeds each target site, and how alike the two bases are there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lorax.adapter import Site
from lorax.base_model import BaseModel
from lorax.checkpoint import Checkpoint
from lorax.linear_algebra import leading_subspaces, overlap_above_chance


@dataclass(frozen=True, slots=True)
class SiteSimilarity:
    """Likeness of the two bases at one site.

    `weight_distance` is ||W_t - W_s|| / ||W_s||; `left` and `right` are overlaps of the singular subspaces that hold
    half of each weight's squared norm, on the output and the input side, with the chance level taken out (0 = chance).
    """

    site: str
    weight_distance: float
    left: float
    right: float


def correspondence(source: BaseModel, target: BaseModel) -> Mapping[Site, Site | str]:
    """Returns for every target site the source site that feeds it, or the reason why none does.

    Members of one family spell equal modules equally, so the same site is its own source; a site that only the target
    has gets `no-such-site`.
    """
    return {site: site if site in source.sites else "no-such-site" for site in target.sites}


def without_home(source: BaseModel, target: BaseModel) -> frozenset[Site]:
    """Returns the source sites whose updates have no target site to go to."""
    return frozenset(source.sites) - frozenset(target.sites)


def similarity(source: Checkpoint, target: Checkpoint, *, energy: float = 0.5) -> list[SiteSimilarity]:
    """Measures likeness at every site that both bases have in the same shape, in the order of sites."""
    shared = [site for site, shape in sorted(target.base.sites.items()) if source.base.sites.get(site) == shape]
    return [_compare(site, source, target, energy) for site in shared]


def _compare(site: Site, source: Checkpoint, target: Checkpoint, energy: float) -> SiteSimilarity:
    here, there = source.weight(site).flatten(1), target.weight(site).flatten(1)
    first, second = leading_subspaces(here, energy=energy), leading_subspaces(there, energy=energy)
    return SiteSimilarity(
        site=str(site),
        weight_distance=float((there - here).norm() / here.norm().clamp_min(1e-30)),
        left=overlap_above_chance(first.left, second.left),
        right=overlap_above_chance(first.right, second.right),
    )
