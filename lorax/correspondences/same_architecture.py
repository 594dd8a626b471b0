"""Bases of one architecture: versions, fine-tunes, distillations, and siblings that see more channels.

Every module has its namesake. Image-to-video and inpainting siblings take further input channels, so that their first
layer differs in shape, and may have modules of their own (an image embedder), which have no source.
"""

from __future__ import annotations

from lorax.adapter import Site, SiteShape
from lorax.base_model import BaseModel
from lorax.correspondence import Aligner, Matches, Rule, backbone, by_name
from lorax.stacks import same_depths
from lorax.unet_blocks import depths

# The first layer of each architecture, which alone may see more or fewer channels.
_FIRST = frozenset({
    "conv_in", "x_embedder", "x_embedder.proj", "patch_embedding", "pos_embed.proj", "img_in", "proj_in",
    "vit.embeddings.patch_embeddings.projection", "vision_model.embeddings.patch_embedding",
})  # fmt: skip
# FramePack is HunyuanVideo trained further, with embeddings for past frames.
_KIN = (frozenset({"hunyuan-video", "framepack"}),)


def _applies(source: BaseModel, target: BaseModel) -> bool:
    families = {source.family, target.family}
    if len(families) > 1 and not any(families <= kin for kin in _KIN):
        return False
    here, there = backbone(source), backbone(target)
    shared = [site for site in there if site in source.sites]
    alike = all(_fits(site, source.sites[site], target.sites[site]) for site in shared)
    return bool(shared) and alike and same_depths(here, there) and depths(source) == depths(target)


def _fits(site: Site, source: SiteShape, target: SiteShape) -> bool:
    return source == target or (site.path in _FIRST and source.out_features == target.out_features)


def _match(source: BaseModel, target: BaseModel, _align: Aligner) -> Matches:
    return by_name(source, target)


RULE = Rule(
    name="same-architecture",
    summary="versions, fine-tunes and distillations of one architecture; inputs may have further channels: equal names",
    order=10,
    applies=_applies,
    match=_match,
)
