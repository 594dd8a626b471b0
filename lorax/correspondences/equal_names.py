"""Siblings of one family with the same blocks and other widths: equal names, other shapes."""

from __future__ import annotations

from lorax.base_model import BaseModel
from lorax.correspondence import Aligner, Matches, Rule, backbone, by_name
from lorax.stacks import same_depths
from lorax.unet_blocks import depths, grid, widths


def _applies(source: BaseModel, target: BaseModel) -> bool:
    if source.family != target.family:
        return False
    if widths(source) or widths(target):
        return grid(source) == grid(target) and depths(source) == depths(target)
    return same_depths(backbone(source), backbone(target))


def _match(source: BaseModel, target: BaseModel, _align: Aligner) -> Matches:
    return by_name(source, target)


RULE = Rule(
    name="equal-names",
    summary="siblings of one family with the same blocks and other widths: equal names",
    order=80,
    applies=_applies,
    match=_match,
)
