"""What a correspondence rule is: which site of a source base feeds each site of a target base, or why none does.

Blocks that are stacked one after another (transformer blocks of an attention, layers of a language model) are paired by
an aligner, always in their order: `evenly` where only shapes are known, by the weights where they are at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from lorax.adapter import Site
from lorax.base_model import BaseModel

VERSION = 1
"""Belongs to the key of every plan: raise it whenever a rule pairs sites in another way."""

NO_SITE = "no-such-site"
NO_BLOCK = "no-source-block"
FUSED = "fused-projections"
OTHER_FEED_FORWARD = "other-feed-forward"
OTHER_VOCABULARY = "other-vocabulary"
OTHER_TEXT_ENCODER = "other-text-encoder"
UNRELATED = "unrelated-bases"

WITHOUT_SOURCE: dict[str, str] = {
    NO_SITE: "The source has no weight with this place and role.",
    NO_BLOCK: "The target has a block here that no block of the source stands for; it stays as it is.",
    FUSED: "One base keeps in one weight what the other keeps in several (query, key and value; gate and up).",
    OTHER_FEED_FORWARD: "The feed-forward parts are of different kinds (gated or not, experts or not).",
    OTHER_VOCABULARY: "The two bases have different vocabularies, so rows of the output head mean different tokens.",
    OTHER_TEXT_ENCODER: "The source has no text encoder of this kind and size.",
    UNRELATED: "No rule tells how weights of these two bases correspond.",
}
"""Every reason why a target site has no source, with one sentence for people."""

Matches = Mapping[Site, Site | str]
"""For every target site the source site that feeds it, or a reason of WITHOUT_SOURCE."""


@dataclass(frozen=True, slots=True)
class Stack:
    """Is a list of equal blocks that run one after another; block i holds the sites under `{path}.{i}.`."""

    component: str
    path: str
    depth: int


Relation = Literal["blocks-removed", "strangers", "unknown"]

Aligner = Callable[[Stack, Stack], tuple[int | None, ...]]
"""Gives, for (source stack, target stack), the source block of each target block: rising numbers, None for none."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Tells how two bases of certain kinds correspond.

    order: of all rules that apply the one with the lowest order wins, so the more special a rule the lower;
    applies(source, target): whether the rule is about these two;
    match(source, target, align): for every target site outside the text encoders its source or the reason why there is
    none; no source feeds two targets. Text encoders are paired by what they are, the same way under every rule;
    relation: how two such bases are known to be related before anybody looks at their weights.
    """

    name: str
    summary: str
    order: int
    applies: Callable[[BaseModel, BaseModel], bool]
    match: Callable[[BaseModel, BaseModel, Aligner], Matches]
    relation: Relation = "unknown"


def evenly(source: Stack, target: Stack) -> tuple[int | None, ...]:
    """Pairs the blocks of two stacks by an even spread, in order, the first with the first and the last with the last.

    The shorter stack's block i of n stands beside block floor(i (m-1) / (n-1) + 1/2) of the longer stack's m; a single
    block stands beside the first, which sees the same input. Blocks of a longer target that nothing stands beside get
    None: what they would do to a neighbour's update is not known, and leaving them alone changes nothing.
    """
    if target.depth <= source.depth:
        return _spread(target.depth, source.depth)
    fed = {block: number for number, block in enumerate(_spread(source.depth, target.depth))}
    return tuple(fed.get(block) for block in range(target.depth))


def _spread(few: int, many: int) -> tuple[int, ...]:
    if few == 1:
        return (0,)
    return tuple((2 * number * (many - 1) + few - 1) // (2 * (few - 1)) for number in range(few))


def is_text_encoder(site: Site) -> bool:
    """Tells whether a site lies in a text encoder that is a part of a pipeline."""
    return site.component.startswith("text_encoder")


def backbone(base: BaseModel) -> list[Site]:
    """Lists the sites that a rule has to answer for: all but those of a pipeline's text encoders."""
    return [site for site in base.sites if not is_text_encoder(site)]


def by_name(source: BaseModel, target: BaseModel) -> dict[Site, Site | str]:
    """Gives each target site outside the text encoders the source site of the same name, where there is one."""
    return {site: site if site in source.sites else NO_SITE for site in backbone(target)}
