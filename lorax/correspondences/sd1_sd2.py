"""SD1 and SD2: equal names, two separate trainings.

The text states are 768 and 1024 wide, so keys and values of the cross attention differ in shape; attentions are entered
and left by 1x1 convolutions in SD1 and by linear layers in SD2, the same map in another shape.
"""

from __future__ import annotations

from lorax.base_model import BaseModel
from lorax.correspondence import Aligner, Matches, Rule, by_name
from lorax.unet_blocks import depths, grid, widths

_FAMILIES = {"stable-diffusion", "stable-diffusion-2"}


def _applies(source: BaseModel, target: BaseModel) -> bool:
    if {source.family, target.family} != _FAMILIES:
        return False
    return grid(source) == grid(target) and depths(source) == depths(target) and widths(source) == widths(target)


def _match(source: BaseModel, target: BaseModel, _align: Aligner) -> Matches:
    return by_name(source, target)


RULE = Rule(
    name="sd1-sd2",
    summary="SD1 and SD2: equal names, other width of the text states",
    order=40,
    applies=_applies,
    match=_match,
    relation="strangers",
)
