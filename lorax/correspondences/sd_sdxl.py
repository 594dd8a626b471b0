"""SD1, SD2 or BK-SDM on one side and SDXL, SSD-1B or Vega on the other: the same place and role, not the same training.

    SD1, SD2                         SDXL
    down_blocks.0 residual layers    down_blocks.0     SD1's attentions there have no home
    down_blocks.1, .2, mid_block     the same          1 transformer block against 2, 10, 10
    up_blocks.1, .2                  up_blocks.0, .1   1 transformer block against 10, 2
    up_blocks.3 residual layers      up_blocks.2       SD1's attentions there have no home
    down_blocks.2 downsampler, down_blocks.3, up_blocks.0      no home

`up_blocks.1` and `.2` are the names of blocks of both, of other width and place: equal names would lie. The one
transformer block of SD1 goes with SDXL's first, which sees the same input; the others have no source and stay as they
are, for nobody has measured what a repeated update would do. Keys and values of the cross attention differ in width.
The two also paint in different latent spaces, so conv_in and conv_out correspond in role only.
"""

from __future__ import annotations

from lorax.base_model import BaseModel
from lorax.correspondence import Aligner, Matches, Rule, backbone
from lorax.unet_blocks import SD_FAMILIES, SD_WIDTHS, SDXL_FAMILIES, match_blocks, through_sd1, widths


def _applies(source: BaseModel, target: BaseModel) -> bool:
    pair = {source.family: source, target.family: target}
    small = next((base for family, base in pair.items() if family in SD_FAMILIES), None)
    large = next((base for family, base in pair.items() if family in SDXL_FAMILIES), None)
    if small is None or large is None:
        return False
    return widths(small) in {SD_WIDTHS, SD_WIDTHS[:3]} and widths(large) == SD_WIDTHS[:3]


def _match(source: BaseModel, target: BaseModel, align: Aligner) -> Matches:
    return match_blocks(source, target, backbone(target), through_sd1(source, target), align)


RULE = Rule(
    name="sd-sdxl",
    summary="SD1, SD2 or BK-SDM and SDXL, SSD-1B or Vega: blocks of equal place and width",
    order=50,
    applies=_applies,
    match=_match,
    relation="strangers",
)
