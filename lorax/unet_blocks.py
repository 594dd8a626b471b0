"""The blocks of conditional U-Nets, and how those of Stable Diffusion's descendants are called in one another's names.

Pairing goes by blocks (`up_blocks.1.attentions.0`, `mid_block.resnets.0`, `conv_in`): a renaming says which source
block a target block comes from, and inside an attention the stacked transformer blocks are aligned.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from lorax.adapter import Site
from lorax.base_model import BaseModel
from lorax.correspondence import NO_BLOCK, NO_SITE, Aligner, Stack

UNET = "unet"
SDXL_FAMILIES = frozenset({"stable-diffusion-xl", "ssd-1b", "segmind-vega"})
SD_FAMILIES = frozenset({"stable-diffusion", "stable-diffusion-2", "bk-sdm"})
SD_WIDTHS = (320, 640, 1280, 1280)
"""Channels by level of SD1 and SD2; SDXL and BK-SDM-Tiny have the first three."""

Rename = Callable[[str], str | None]
"""Gives a block's name in another base, None where it has no counterpart there."""

_BLOCK = re.compile(r"((?:(?:down|up)_blocks\.\d+|mid_block)\.\w+\.\d+)(?:\.(.+))?")
_STACKED = re.compile(r"transformer_blocks\.(\d+)\.(.+)")
_UP = re.compile(r"up_blocks\.(\d+)\.(\w+)\.(\d+)")


def widths(base: BaseModel) -> tuple[int, ...]:
    """Gives the channels of a U-Net by level, from fine to coarse; nothing for a base that has no U-Net."""
    found: list[int] = []
    while shape := base.sites.get(Site(UNET, f"down_blocks.{len(found)}.resnets.0.conv2")):
        found.append(shape.out_features)
    return tuple(found)


def split(path: str) -> tuple[str, str]:
    """Splits a path into its block and what lies in it: all of the path, and nothing, outside the blocks."""
    found = _BLOCK.fullmatch(path)
    return (found[1], found[2] or "") if found else (path, "")


def depths(base: BaseModel) -> dict[str, int]:
    """Counts the transformer blocks of each attention of a U-Net."""
    found: dict[str, int] = {}
    for site in base.sites:
        block, inner = split(site.path)
        if site.component == UNET and (stacked := _STACKED.fullmatch(inner)):
            found[block] = max(found.get(block, 0), int(stacked[1]) + 1)
    return found


def match_blocks(
    source: BaseModel, target: BaseModel, sites: Sequence[Site], rename: Rename, align: Aligner
) -> dict[Site, Site | str]:
    """Gives each of the target's `sites` its source, block by block; other components than the U-Net by name."""
    here, there = depths(source), depths(target)
    stacks: dict[str, tuple[int | None, ...]] = {}
    found: dict[Site, Site | str] = {}
    for site in sites:
        if site.component != UNET:
            found[site] = site if site in source.sites else NO_SITE
            continue
        block, inner = split(site.path)
        origin = rename(block)
        if origin is not None and origin in here and block in there and block not in stacks:
            pair = (_stack(origin, here[origin]), _stack(block, there[block]))
            stacks[block] = align(*pair)
        is_numbered = _BLOCK.fullmatch(block) is not None
        missing = NO_BLOCK if is_numbered and not (origin and has_block(source, origin)) else NO_SITE
        found[site] = _origin(source, origin, inner, stacks.get(block, ())) or missing
    return found


def _stack(attention: str, depth: int) -> Stack:
    return Stack(UNET, f"{attention}.transformer_blocks", depth)


def _origin(source: BaseModel, block: str | None, inner: str, aligned: tuple[int | None, ...]) -> Site | str | None:
    if block is None:
        return None
    if (stacked := _STACKED.fullmatch(inner)) and aligned:
        number = aligned[int(stacked[1])]
        if number is None:
            return NO_BLOCK
        inner = f"transformer_blocks.{number}.{stacked[2]}"
    site = Site(UNET, f"{block}.{inner}" if inner else block)
    return site if site in source.sites else None


def has_block(base: BaseModel, block: str) -> bool:
    """Tells whether a U-Net has a numbered block."""
    return any(Site(UNET, f"{block}.{role}") in base.sites for role in ("conv", "conv1", "proj_in"))


def grid(base: BaseModel) -> frozenset[str]:
    """Gives the numbered blocks of a U-Net on the way down and up; the middle is left out."""
    blocks = (split(site.path)[0] for site in base.sites if site.component == UNET)
    return frozenset(block for block in blocks if _BLOCK.fullmatch(block) and not block.startswith("mid_block"))


def to_sd1(base: BaseModel) -> Rename:
    """Gives what a block of SD1, SD2, BK-SDM or SDXL's kin is called in SD1 (same level, same place).

    BK-SDM kept residual layers and attentions 0 on the way down, 0 and 2 on the way up (2 is called 1 there), and Tiny
    lost the coarsest level too, so that its up_blocks count from SD1's 1. SDXL lacks SD1's coarsest level: its
    up_blocks count from SD1's 1 as well. Its third level has no downsampler, SD1's has.
    """
    shift = len(SD_WIDTHS) - len(widths(base))
    thinned = base.family == "bk-sdm"

    def rename(block: str) -> str | None:
        found = _UP.fullmatch(block)
        if found is None:
            return block
        layer = "2" if thinned and found[2] in {"resnets", "attentions"} and found[3] == "1" else found[3]
        return f"up_blocks.{int(found[1]) + shift}.{found[2]}.{layer}"

    return rename


def from_sd1(base: BaseModel) -> Rename:
    """Gives what a block of SD1 is called in a base, None where the base has none: the way back of `to_sd1`."""
    there = to_sd1(base)
    names = {split(site.path)[0] for site in base.sites if site.component == UNET}
    known = {there(name): name for name in names}
    return known.get


def through_sd1(source: BaseModel, target: BaseModel) -> Rename:
    """Gives the source block of each target block, both called as SD1 calls them in between."""
    there, here = to_sd1(target), from_sd1(source)

    def rename(block: str) -> str | None:
        between = there(block)
        return None if between is None else here(between)

    return rename
