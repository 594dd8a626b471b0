"""Stable Diffusion: a conditional U-Net with one or more CLIP text encoders, in diffusers' folder layout.

Any folder with a UNet2DConditionModel is a member, whatever its widths; Stable Diffusion 1.5 is known by heart.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lorax.adapter import Site, SiteShape
from lorax.base_model import BaseModel, Family

NAME = "stable-diffusion"
_TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
_CONFIG_BYTES = 2**20
_Named = Iterator[tuple[str, SiteShape]]


@dataclass(frozen=True, slots=True)
class UNet:
    """Describes a conditional U-Net from which its whole inventory follows.

    widths: channels by level, from fine to coarse; depths: transformer blocks of each attention by level, 0 for a level
    without attention; layers: residual layers of a level on the way down (one more on the way up); context: width of
    the text states; heights of convolutions are 3 except where said.
    """

    channels: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    middle_depth: int
    layers: int
    context: int

    def modules(self) -> _Named:
        """Lists the modules with a weight of two or four dimensions, in the order of the network."""
        first, embedding = self.widths[0], 4 * self.widths[0]
        yield "conv_in", _conv(first, self.channels)
        yield "time_embedding.linear_1", SiteShape(embedding, first)
        yield "time_embedding.linear_2", SiteShape(embedding, embedding)
        yield from self._down()
        last = self.widths[-1]
        yield from self._resnet("mid_block.resnets.0", last, last)
        yield from self._attention("mid_block.attentions.0", last, self.middle_depth)
        yield from self._resnet("mid_block.resnets.1", last, last)
        yield from self._up()
        yield "conv_out", _conv(self.channels, first)

    def _down(self) -> _Named:
        before = self.widths[0]
        for level, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            block = f"down_blocks.{level}"
            for layer in range(self.layers):
                yield from self._resnet(f"{block}.resnets.{layer}", width, before if layer == 0 else width)
                yield from self._attention(f"{block}.attentions.{layer}", width, depth)
            if level < len(self.widths) - 1:
                yield f"{block}.downsamplers.0.conv", _conv(width, width)
            before = width

    def _up(self) -> _Named:
        # Each residual layer takes the level's state and, beside it, one state kept on the way down.
        widths, depths = self.widths[::-1], self.depths[::-1]
        before = widths[0]
        for level, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            block, finer = f"up_blocks.{level}", widths[min(level + 1, len(widths) - 1)]
            for layer in range(self.layers + 1):
                kept = finer if layer == self.layers else width
                state = before if layer == 0 else width
                yield from self._resnet(f"{block}.resnets.{layer}", width, state + kept)
                yield from self._attention(f"{block}.attentions.{layer}", width, depth)
            if level < len(widths) - 1:
                yield f"{block}.upsamplers.0.conv", _conv(width, width)
            before = width

    def _resnet(self, path: str, width: int, inputs: int) -> _Named:
        yield f"{path}.conv1", _conv(width, inputs)
        yield f"{path}.time_emb_proj", SiteShape(width, 4 * self.widths[0])
        yield f"{path}.conv2", _conv(width, width)
        if inputs != width:
            yield f"{path}.conv_shortcut", _conv(width, inputs, size=1)

    def _attention(self, path: str, width: int, depth: int) -> _Named:
        if depth == 0:
            return
        yield f"{path}.proj_in", _conv(width, width, size=1)
        for block in range(depth):
            inner = f"{path}.transformer_blocks.{block}"
            for attention, inputs in (("attn1", width), ("attn2", self.context)):
                yield f"{inner}.{attention}.to_q", SiteShape(width, width)
                yield f"{inner}.{attention}.to_k", SiteShape(width, inputs)
                yield f"{inner}.{attention}.to_v", SiteShape(width, inputs)
                yield f"{inner}.{attention}.to_out.0", SiteShape(width, width)
            # The feed-forward part is gated (GEGLU): twice four times the width.
            yield f"{inner}.ff.net.0.proj", SiteShape(8 * width, width)
            yield f"{inner}.ff.net.2", SiteShape(width, 4 * width)
        yield f"{path}.proj_out", _conv(width, width, size=1)


def _conv(outputs: int, inputs: int, *, size: int = 3) -> SiteShape:
    return SiteShape(outputs, inputs, (size, size))


def clip_modules(layers: int, width: int) -> _Named:
    """Lists the linear layers of a CLIP text encoder."""
    for layer in range(layers):
        path = f"text_model.encoder.layers.{layer}"
        for projection in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield f"{path}.self_attn.{projection}", SiteShape(width, width)
        yield f"{path}.mlp.fc1", SiteShape(4 * width, width)
        yield f"{path}.mlp.fc2", SiteShape(width, 4 * width)


SD15_UNET = UNet(
    channels=4, widths=(320, 640, 1280, 1280), depths=(1, 1, 1, 0), middle_depth=1, layers=2, context=768
)  # fmt: skip
"""The U-Net of Stable Diffusion 1.5, 282 modules."""

_SD15 = BaseModel(
    name="sd1.5",
    family=NAME,
    version="sd1.5",
    sites={
        **{Site("unet", path): shape for path, shape in SD15_UNET.modules()},
        **{Site("text_encoder", path): shape for path, shape in clip_modules(12, 768)},
    },
    labels=(
        "sd_v1", "sd_1.5", "SD 1.5", "SD 1.4", "stable-diffusion-v1", "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "CompVis/stable-diffusion-v1-4", "v1-5-pruned", "v1-5-pruned-emaonly",
    ),
)  # fmt: skip


def _recognises(folder: Path) -> bool:
    """Whether the folder's U-Net says that it is a UNet2DConditionModel."""
    config = folder / "unet" / "config.json"
    if not config.is_file() or config.stat().st_size > _CONFIG_BYTES:
        return False
    try:
        found = json.loads(config.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("_class_name") == "UNet2DConditionModel"


def _components(folder: Path) -> dict[str, Path]:
    return {name: folder / name for name in ("unet", *_TEXT_ENCODERS) if (folder / name).is_dir()}


def _canonical(component: str, module: str) -> str:
    """Gives the text encoder's modules their `text_model.` level back, which transformers 5.6 and later leave out."""
    bare = ("encoder.", "embeddings.", "final_layer_norm.")
    return f"text_model.{module}" if component in _TEXT_ENCODERS and module.startswith(bare) else module


FAMILY = Family(
    name=NAME,
    versions=(_SD15,),
    recognises=_recognises,
    components=_components,
    canonical=_canonical,
    not_sites=frozenset({"token_embedding", "position_embedding", "class_embedding"}),
    spoken={"sd1.5": ("sd_v1", "stable-diffusion-v1")},
    parameters={"sd1.5": 944_011_776},
)
