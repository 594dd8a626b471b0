"""The conditional U-Net of Stable Diffusion and its descendants: every parameter, from a few numbers.

Names and shapes are those of UNet2DConditionModel in diffusers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lorax.adapter import SiteShape
from lorax.inventory import Parameters, convolution, linear, norm, table, take_inventory

Depths = tuple[int | tuple[int, ...], ...]
"""Transformer blocks of each attention: by level, and within a level one number for all or one for each."""


@dataclass(frozen=True, slots=True)
class UNet:
    """Describes a conditional U-Net from which its whole inventory follows.

    channels: of the latents; extra_channels: what the input has besides them (5 for inpainting: a masked picture and
    its mask); widths: channels by level, from fine to coarse; depths: transformer blocks on the way down, 0 for a level
    without attention; up_depths: on the way up, from coarse to fine, the same mirrored where nothing is said;
    middle_depth: transformer blocks between the two, 0 for a single residual layer without attention, None for no
    middle block at all; layers: residual layers of a level on the way down (one more on the way up), of all levels or
    of each; context: width of the text states; linear_projection: an attention is entered and left by linear layers and
    not by 1x1 convolutions; added_width: of the pooled text and sizes that are added to the time (SDXL), None without;
    class_width: of an embedding that is added to the time (unCLIP), None without; classes: entries of a table of
    noise levels (upscaler), 0 without.
    """

    channels: int
    widths: tuple[int, ...]
    depths: Depths
    middle_depth: int | None
    layers: int | tuple[int, ...]
    context: int
    up_depths: Depths | None = None
    extra_channels: int = 0
    linear_projection: bool = False
    added_width: int | None = None
    class_width: int | None = None
    classes: int = 0

    def parameters(self) -> Parameters:
        """Lists all parameters, in the order of the network."""
        first = self.widths[0]
        yield from convolution("conv_in", first, self.channels + self.extra_channels, 3, 3)
        yield from self._embeddings()
        yield from self._down()
        yield from self._middle()
        yield from self._up()
        yield from norm("conv_norm_out", first)
        yield from convolution("conv_out", self.channels, first, 3, 3)

    def modules(self) -> Iterator[tuple[str, SiteShape]]:
        """Lists the modules whose weight is multiplied."""
        for site, shape in take_inventory({"unet": self.parameters()}).sites.items():
            yield site.path, shape

    @property
    def _time(self) -> int:
        return 4 * self.widths[0]

    def _embeddings(self) -> Parameters:
        time = self._time
        inputs = {
            "time_embedding": self.widths[0],
            "class_embedding": self.class_width,
            "add_embedding": self.added_width,
        }
        for path, width in inputs.items():
            if width is not None:
                yield from linear(f"{path}.linear_1", time, width)
                yield from linear(f"{path}.linear_2", time, time)
        if self.classes:
            yield from table("class_embedding", self.classes, time)

    def _layers(self, level: int) -> int:
        return self.layers if isinstance(self.layers, int) else self.layers[level]

    def _down(self) -> Parameters:
        before = self.widths[0]
        for level, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            block = f"down_blocks.{level}"
            for layer, blocks in enumerate(_each(depth, self._layers(level))):
                yield from self._resnet(f"{block}.resnets.{layer}", width, before if layer == 0 else width)
                yield from self._attention(f"{block}.attentions.{layer}", width, blocks)
            if level < len(self.widths) - 1:
                yield from convolution(f"{block}.downsamplers.0.conv", width, width, 3, 3)
            before = width

    def _middle(self) -> Parameters:
        if self.middle_depth is None:
            return
        width = self.widths[-1]
        yield from self._resnet("mid_block.resnets.0", width, width)
        if self.middle_depth:
            yield from self._attention("mid_block.attentions.0", width, self.middle_depth)
            yield from self._resnet("mid_block.resnets.1", width, width)

    def _up(self) -> Parameters:
        # Each residual layer takes the level's state and, beside it, one state kept on the way down.
        widths = self.widths[::-1]
        last, before = len(widths) - 1, widths[0]
        for level, depth in enumerate(self.up_depths or self.depths[::-1]):
            block, width, finer = f"up_blocks.{level}", widths[level], widths[min(level + 1, last)]
            depths = _each(depth, self._layers(last - level) + 1)
            for layer, blocks in enumerate(depths):
                kept = finer if layer == len(depths) - 1 else width
                state = before if layer == 0 else width
                yield from self._resnet(f"{block}.resnets.{layer}", width, state + kept)
                yield from self._attention(f"{block}.attentions.{layer}", width, blocks)
            if level < last:
                yield from convolution(f"{block}.upsamplers.0.conv", width, width, 3, 3)
            before = width

    def _resnet(self, path: str, width: int, inputs: int) -> Parameters:
        yield from norm(f"{path}.norm1", inputs)
        yield from convolution(f"{path}.conv1", width, inputs, 3, 3)
        yield from linear(f"{path}.time_emb_proj", width, self._time)
        yield from norm(f"{path}.norm2", width)
        yield from convolution(f"{path}.conv2", width, width, 3, 3)
        if inputs != width:
            yield from convolution(f"{path}.conv_shortcut", width, inputs, 1, 1)

    def _attention(self, path: str, width: int, depth: int) -> Parameters:
        if depth == 0:
            return
        kernel = () if self.linear_projection else (1, 1)
        yield from norm(f"{path}.norm", width)
        yield from convolution(f"{path}.proj_in", width, width, *kernel)
        for block in range(depth):
            yield from self._transformer_block(f"{path}.transformer_blocks.{block}", width)
        yield from convolution(f"{path}.proj_out", width, width, *kernel)

    def _transformer_block(self, path: str, width: int) -> Parameters:
        for order, inputs in ((1, width), (2, self.context)):
            yield from norm(f"{path}.norm{order}", width)
            yield from linear(f"{path}.attn{order}.to_q", width, width, bias=False)
            yield from linear(f"{path}.attn{order}.to_k", width, inputs, bias=False)
            yield from linear(f"{path}.attn{order}.to_v", width, inputs, bias=False)
            yield from linear(f"{path}.attn{order}.to_out.0", width, width)
        yield from norm(f"{path}.norm3", width)
        # The feed-forward part is gated (GEGLU): twice four times the width.
        yield from linear(f"{path}.ff.net.0.proj", 8 * width, width)
        yield from linear(f"{path}.ff.net.2", width, 4 * width)


def _each(depth: int | Sequence[int], layers: int) -> Sequence[int]:
    """The depth of each attention of a level, of which there are as many as residual layers."""
    return (depth,) * layers if isinstance(depth, int) else depth
