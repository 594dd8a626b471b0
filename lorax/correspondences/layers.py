"""Siblings of one family that differ in the number of their layers: Wan, LTX, SD3, T5, ViT, CLIP in two sizes.

Layers go with layers in order, the first with the first and the last with the last; modules outside by name.
"""

from __future__ import annotations

from lorax.base_model import BaseModel
from lorax.correspondence import Aligner, Matches, Rule, backbone
from lorax.stacks import match_stacks, same_depths
from lorax.unet_blocks import widths


def _applies(source: BaseModel, target: BaseModel) -> bool:
    if source.family != target.family or widths(source) or widths(target):
        return False
    return not same_depths(backbone(source), backbone(target))


def _match(source: BaseModel, target: BaseModel, align: Aligner) -> Matches:
    return match_stacks(source, backbone(target), align)


RULE = Rule(
    name="layers",
    summary="two sizes of one family of transformers: layers aligned in order",
    order=70,
    applies=_applies,
    match=_match,
)
