"""A base pair: which source site feeds each target site, and how alike the two bases are there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lorax.adapter import Site
from lorax.base_model import BaseModel
from lorax.block_likeness import VERSION as LIKENESS_VERSION
from lorax.block_likeness import by_likeness
from lorax.checkpoint import Checkpoint
from lorax.correspondence import Aligner, Rule, evenly
from lorax.correspondences import RULES
from lorax.linear_algebra import leading_subspaces, overlap_above_chance
from lorax.text_encoder_pairs import match_text_encoders


@dataclass(frozen=True, slots=True)
class SiteSimilarity:
    """Likeness of the two bases at one target site and its source.

    `weight_distance` is ||W_t - W_s|| / ||W_s||; `left` and `right` are overlaps of the singular subspaces that hold
    half of each weight's squared norm, on the output and the input side, with the chance level taken out (0 = chance).
    """

    site: str
    weight_distance: float
    left: float
    right: float


def rule_for(source: BaseModel, target: BaseModel) -> Rule:
    """Gives the most special rule of lorax/correspondences that applies to a pair; there always is one."""
    return next(rule for rule in sorted(RULES.values(), key=lambda rule: rule.order) if rule.applies(source, target))


def correspondence(source: BaseModel, target: BaseModel, *, align: Aligner = evenly) -> Mapping[Site, Site | str]:
    """Returns for every target site the source site that feeds it, or the reason (WITHOUT_SOURCE) why none does.

    No source feeds two targets. Shapes may differ: whether an update can be carried is for the method to say.
    """
    found = {**rule_for(source, target).match(source, target, align), **match_text_encoders(source, target)}
    return {site: found[site] for site in target.sites}


def correspondence_by_weights(source: Checkpoint, target: Checkpoint) -> Mapping[Site, Site | str]:
    """Returns the same, with stacks of unequal depth aligned by the likeness of their weights."""
    return correspondence(source.base, target.base, align=by_likeness(source, target))


def aligner_of(source: BaseModel, target: BaseModel) -> str:
    """Names how stacks of unequal depth are paired: by their weights where both bases have some, else evenly."""
    return f"likeness {LIKENESS_VERSION}" if source.fingerprint and target.fingerprint else "evenly"


def pairing(source: Checkpoint, target: Checkpoint) -> Mapping[Site, Site | str]:
    """Returns the correspondence that plans go by: the best that the bases allow, as `aligner_of` names it."""
    if aligner_of(source.base, target.base) == "evenly":
        return correspondence(source.base, target.base)
    return correspondence_by_weights(source, target)


def without_home(source: BaseModel, target: BaseModel) -> frozenset[Site]:
    """Returns the source sites whose updates have no target site to go to."""
    return frozenset(source.sites) - set(correspondence(source, target).values())


def similarity(source: Checkpoint, target: Checkpoint, *, energy: float = 0.5) -> list[SiteSimilarity]:
    """Measures likeness at every target site whose source has the same shape, in the order of sites."""
    pairs = sorted(pairing(source, target).items())
    return [
        site_similarity(source, target, site, origin, energy=energy)
        for site, origin in pairs
        if isinstance(origin, Site) and source.base.sites[origin] == target.base.sites[site]
    ]


def site_similarity(
    source: Checkpoint, target: Checkpoint, site: Site, origin: Site, *, energy: float = 0.5
) -> SiteSimilarity:
    """Measures likeness of a target site and its source, which have the same shape."""
    here, there = source.weight(origin).flatten(1), target.weight(site).flatten(1)
    first, second = leading_subspaces(here, energy=energy), leading_subspaces(there, energy=energy)
    return SiteSimilarity(
        site=str(site),
        weight_distance=float((there - here).norm() / here.norm().clamp_min(1e-30)),
        left=overlap_above_chance(first.left, second.left),
        right=overlap_above_chance(first.right, second.right),
    )
