"""SD1 (or SD2) and what BK-SDM left of it, in both directions, and BK-SDM's sizes among each other.

Architecture of arXiv 2305.15798 as Segmind's small-sd and tiny-sd have it too: on the way down every level keeps
residual layer and attention 0; on the way up 0 and 2 are kept, and 2 is called 1; Small has no middle; Tiny has no
coarsest level either, so that its up_blocks 0 to 2 are SD1's 1 to 3. What was kept started from the weights of its
namesake in SD1.
"""

from __future__ import annotations

from lorax.base_model import BaseModel
from lorax.correspondence import Aligner, Matches, Rule, backbone
from lorax.unet_blocks import SD_FAMILIES, SD_WIDTHS, match_blocks, through_sd1, widths

NAME = "bk-sdm"


def _applies(source: BaseModel, target: BaseModel) -> bool:
    families = {source.family, target.family}
    known = all(widths(base) in {SD_WIDTHS, SD_WIDTHS[:3]} for base in (source, target))
    return NAME in families and families <= SD_FAMILIES and known


def _match(source: BaseModel, target: BaseModel, align: Aligner) -> Matches:
    return match_blocks(source, target, backbone(target), through_sd1(source, target), align)


RULE = Rule(
    name="bk-sdm",
    summary="SD1 or SD2 and BK-SDM, small-sd, tiny-sd: the blocks that were kept, by their old numbers",
    order=20,
    applies=_applies,
    match=_match,
    relation="blocks-removed",
)
