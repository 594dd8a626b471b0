"""What CompVis' latent-diffusion and Stability AI's generative-models call the modules of a conditional U-Net.

sd-scripts trains SDXL on that code, so most adapters of SDXL bear these names. The code counts every layer of the
network through, where diffusers counts levels and layers within a level.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lorax.inventories.text_encoders import own_names_and_text_encoders
from lorax.naming import NamedModule

if TYPE_CHECKING:
    from lorax.base_model import BaseModel

_OUTER = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "class_embedding.linear_1": "label_emb.0.0",
    "class_embedding.linear_2": "label_emb.0.2",
    "class_embedding": "label_emb",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_MIDDLE = {"resnets.0": "middle_block.0", "attentions.0": "middle_block.1", "resnets.1": "middle_block.2"}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_IN_LEVEL = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_IN_MIDDLE = re.compile(r"mid_block\.((?:resnets|attentions)\.\d+)\.(.+)")


def sgm_names(base: BaseModel) -> Iterator[NamedModule]:
    """Lists the modules of a base in the names of generative-models; text encoders keep transformers' names.

    A module of the U-Net that this code does not have, such as the guidance embedding of a distilled model, keeps its
    own name.
    """
    layout = _Layout.of(base)
    for module in own_names_and_text_encoders(base):
        yield replace(module, path=layout.path(module.path)) if module.component == "unet" else module


@dataclass(frozen=True, slots=True)
class _Layout:
    """Counts the residual layers of each level; attended: levels on the way up that have attention."""

    down: Mapping[int, int]
    up: Mapping[int, int]
    attended: frozenset[int]

    @classmethod
    def of(cls, base: BaseModel) -> _Layout:
        counts: dict[str, Counter[int]] = {"down": Counter(), "up": Counter()}
        attended = set()
        for site in base.sites:
            found = _IN_LEVEL.fullmatch(site.path) if site.component == "unet" else None
            if found is None:
                continue
            way, level = found[1], int(found[2])
            counts[way][level] += (found[3], found[5]) == ("resnets", "conv1")
            if way == "up" and found[3] == "attentions":
                attended.add(level)
        return cls(counts["down"], counts["up"], frozenset(attended))

    def path(self, path: str) -> str:
        if (outer := _OUTER.get(path)) is not None:
            return outer
        if (found := _IN_LEVEL.fullmatch(path)) is not None:
            place = self._place(found[1], int(found[2]), found[3], int(found[4]))
            return f"{place}.{_inside(found[3], found[5])}"
        if (found := _IN_MIDDLE.fullmatch(path)) is not None:
            return f"{_MIDDLE[found[1]]}.{_inside(found[1].partition('.')[0], found[2])}"
        return path

    def _place(self, way: str, level: int, kind: str, layer: int) -> str:
        inner = {"resnets": 0, "attentions": 1, "downsamplers": 0, "upsamplers": 1 + (level in self.attended)}[kind]
        if way == "down":
            # The first block is conv_in, and a downsampler is a block of its own behind the layers of its level.
            before = 1 + sum(self.down[finer] + 1 for finer in range(level))
            return f"input_blocks.{before + (self.down[level] if kind == 'downsamplers' else layer)}.{inner}"
        # An upsampler lies in the block of the last layer of its level, behind the attention if there is one.
        before = sum(self.up[coarser] for coarser in range(level))
        return f"output_blocks.{before + (self.up[level] - 1 if kind == 'upsamplers' else layer)}.{inner}"


def _inside(kind: str, rest: str) -> str:
    if kind == "resnets":
        return _RESNET[rest]
    return "op" if kind == "downsamplers" else rest
