"""U-Nets of one grid of blocks whose attentions are of other depth: SDXL, SSD-1B and Segmind-Vega among each other.

Segmind's published code distils SSD-1B from SDXL under a loss that ties every residual layer and every attention to its
namesake, and the only residual layer of the middle to the whole middle of SDXL. So blocks correspond by name; the
middle attention and second residual layer have no home. Attentions of equal depth correspond block by block. Which
blocks of a shortened one (10 to 4, 2 to 1) survived was not published in a form that could be checked: they are
aligned in order, by an even spread where only shapes are known, by likeness where weights are at hand.
"""

from __future__ import annotations

from lorax.base_model import BaseModel
from lorax.correspondence import Aligner, Matches, Rule, backbone
from lorax.unet_blocks import SDXL_FAMILIES, depths, grid, match_blocks, widths


def _applies(source: BaseModel, target: BaseModel) -> bool:
    families = {source.family, target.family}
    if len(families) > 1 and not families <= SDXL_FAMILIES:
        return False
    same_grid = grid(source) == grid(target) and widths(source) == widths(target)
    return bool(widths(source)) and same_grid and depths(source) != depths(target)


def _match(source: BaseModel, target: BaseModel, align: Aligner) -> Matches:
    return match_blocks(source, target, backbone(target), lambda block: block, align)


RULE = Rule(
    name="shortened-attentions",
    summary="SDXL, SSD-1B, Segmind-Vega and other pairs with one grid of blocks: transformer blocks aligned in order",
    order=30,
    applies=_applies,
    match=_match,
    relation="blocks-removed",
)
