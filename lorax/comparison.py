"""Compares two bases: which sites have a source, how alike the weights are, and what that lets one expect."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from lorax.adapter import Site
from lorax.base_model import BaseModel
from lorax.base_pair import SiteSimilarity, correspondence, correspondence_by_weights, rule_for, site_similarity
from lorax.checkpoint import Checkpoint
from lorax.correspondence import UNRELATED, Matches, Rule, is_text_encoder
from lorax.expectations import CASES, EXPECTED, Case
from lorax.places import network_order, place_of

SAME_DISTANCE = 0.002
"""Median weight distance below which two bases are the same: rounding to bfloat16 makes less, to float16 0.0003."""
LINEAGE_DISTANCE = 0.5
"""Median weight distance of one lineage: a cosine of about .87. Checkpoints of one run are far below."""
RELATED_DISTANCE = 1.0
"""Median weight distance up to which bases are related: a cosine of about .5. Strangers have the square root of 2."""
RELATED_OVERLAP = 0.1
"""Median overlap of singular subspaces above chance from which bases are related whatever the distance."""


@dataclass(frozen=True, slots=True)
class ComparedSite:
    """Is one target site: its source or the reason why it has none, and how alike the two weights are.

    similarity: None where there is no source, shapes differ or weights are not at hand.
    """

    site: Site
    source: Site | None
    reason: str
    same_shape: bool
    similarity: SiteSimilarity | None = None

    @property
    def alike(self) -> float | None:
        """Gives the mean overlap of the two sides' subspaces above chance: 1 the same, 0 what chance gives."""
        return None if self.similarity is None else (self.similarity.left + self.similarity.right) / 2


@dataclass(frozen=True, slots=True)
class PartSummary:
    """Sums up one part of the target.

    sites, with_source, same_shape: counts; alike, weight_distance: means over what could be measured, else None.
    """

    part: str
    sites: int
    with_source: int
    same_shape: int
    alike: float | None
    weight_distance: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Holds what two bases have in common.

    sites: all of the target, sorted; homeless: source sites whose updates have nowhere to go; has_weights: whether the
    weights of both were at hand.
    """

    source: str
    target: str
    rule: Rule
    sites: tuple[ComparedSite, ...]
    homeless: tuple[Site, ...]
    has_weights: bool

    @property
    def share(self) -> float:
        """Gives the share of the target's sites that have a source."""
        return sum(site.source is not None for site in self.sites) / len(self.sites)

    @property
    def case(self) -> Case:
        """Tells how the two are related, by the median over the weights outside the text encoders."""
        own = [site for site in self.sites if not is_text_encoder(site.site)]
        fed = [site for site in own if site.source is not None]
        if not fed or all(site.reason == UNRELATED for site in own):
            return "unrelated"
        if 2 * sum(site.same_shape for site in fed) < len(fed):
            return "other-width"
        if not self.has_weights:
            # A lineage that is known from names holds where shapes agree: SD2 was no parent of SD1's descendants.
            agree = all(site.same_shape for site in fed)
            return self.rule.relation if agree or self.rule.relation != "blocks-removed" else "unknown"
        whole = len(fed) == len(own) and all(is_text_encoder(site) for site in self.homeless)
        return _likeness([site.similarity for site in fed if site.similarity is not None], whole=whole)

    @property
    def reasons(self) -> Mapping[str, int]:
        """Counts the target sites without a source by reason, the most common first."""
        return dict(Counter(site.reason for site in self.sites if site.source is None).most_common())

    def parts(self) -> list[PartSummary]:
        """Sums up the parts of the target, in the order of the network."""
        groups: dict[str, list[ComparedSite]] = {}
        for site in self.sites:
            groups.setdefault(place_of(site.site).part, []).append(site)
        return [_summary(part, groups[part]) for part in sorted(groups, key=network_order)]

    def to_json(self) -> dict[str, Any]:
        """Gives everything as plain values."""
        return {
            "source": self.source,
            "target": self.target,
            "rule": self.rule.name,
            "weights": self.has_weights,
            "share_with_source": self.share,
            "case": self.case,
            "case_in_words": CASES[self.case],
            "expectations": EXPECTED[self.case],
            "reasons": dict(self.reasons),
            "without_home": [str(site) for site in self.homeless],
            "parts": [{name: getattr(part, name) for name in PartSummary.__slots__} for part in self.parts()],
            "sites": [_site_to_json(site) for site in self.sites],
        }


def compare_bases(source: BaseModel, target: BaseModel) -> Comparison:
    """Compares two bases by names and shapes alone."""
    return _comparison(source, target, correspondence(source, target), {}, has_weights=False)


def compare_checkpoints(
    source: Checkpoint, target: Checkpoint, *, progress: Callable[[int, int], None] = lambda _done, _total: None
) -> Comparison:
    """Compares two bases with their weights at hand, two weights in memory at a time.

    progress(done, total) is called after every site that is measured.
    """
    matches = correspondence_by_weights(source, target)
    here, there = source.base.sites, target.base.sites
    pairs = [(site, origin) for site, origin in sorted(matches.items()) if isinstance(origin, Site)]
    measurable = [(site, origin) for site, origin in pairs if here[origin] == there[site]]
    measured: dict[Site, SiteSimilarity] = {}
    for done, (site, origin) in enumerate(measurable, start=1):
        measured[site] = site_similarity(source, target, site, origin)
        progress(done, len(measurable))
    return _comparison(source.base, target.base, matches, measured, has_weights=True)


def _comparison(
    source: BaseModel,
    target: BaseModel,
    matches: Matches,
    measured: Mapping[Site, SiteSimilarity],
    *,
    has_weights: bool,
) -> Comparison:
    sites = []
    for site, origin in sorted(matches.items()):
        if isinstance(origin, str):
            sites.append(ComparedSite(site, None, origin, same_shape=False))
        else:
            same_shape = source.sites[origin] == target.sites[site]
            sites.append(ComparedSite(site, origin, "", same_shape, measured.get(site)))
    homeless = sorted(set(source.sites) - set(matches.values()))
    rule = rule_for(source, target)
    return Comparison(source.name, target.name, rule, tuple(sites), tuple(homeless), has_weights)


def _likeness(found: list[SiteSimilarity], *, whole: bool) -> Case:
    distance = median(site.weight_distance for site in found)
    if distance <= LINEAGE_DISTANCE:
        if not whole:
            return "blocks-removed"
        return "same" if distance <= SAME_DISTANCE else "lineage"
    overlap = median((site.left + site.right) / 2 for site in found)
    return "related" if distance <= RELATED_DISTANCE or overlap >= RELATED_OVERLAP else "strangers"


def _summary(part: str, sites: list[ComparedSite]) -> PartSummary:
    measured = [site.similarity for site in sites if site.similarity is not None]
    return PartSummary(
        part=part,
        sites=len(sites),
        with_source=sum(site.source is not None for site in sites),
        same_shape=sum(site.same_shape for site in sites),
        alike=fmean((site.left + site.right) / 2 for site in measured) if measured else None,
        weight_distance=fmean(site.weight_distance for site in measured) if measured else None,
    )


def _site_to_json(site: ComparedSite) -> dict[str, Any]:
    found = site.similarity
    return {
        "site": str(site.site),
        "source": None if site.source is None else str(site.source),
        "reason": site.reason,
        "same_shape": site.same_shape,
        "weight_distance": found.weight_distance if found else None,
        "left": found.left if found else None,
        "right": found.right if found else None,
    }
