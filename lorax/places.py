"""Where in the network a site lies, in words for tables and drawings: its part, its column, its role."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lorax.adapter import Site
from lorax.unet_blocks import UNET, split

OUTSIDE = "outside"
"""The part of what lies in no block: first and last layer, embeddings of time."""

_NUMBERED = re.compile(r"(\D*?(?:layers?|blocks?|refiner))\.(\d+)\.(.+?)(?:\[\d+\])?")
_STACKED = re.compile(r"transformer_blocks\.\d+\.(.+)")
_BLOCK = re.compile(r"(down|mid|up)_blocks?(?:\.(\d+))?\..+")
_ORDER = (OUTSIDE, "down", "mid", "up")


@dataclass(frozen=True, slots=True)
class Place:
    """Tells where a site lies.

    part: a row of a table: "down 1", "mid", a list of layers, a whole text encoder; column: the same, layers one by
    one; role: what the weight does there: "attn1.to_q", "conv1", "mlp.up_proj"; experts of one layer have one role.
    """

    part: str
    column: str
    role: str


def place_of(site: Site) -> Place:
    """Gives the place of a site."""
    if site.component == UNET:
        block, inner = split(site.path)
        part = OUTSIDE if not inner else " ".join(filter(None, _words(block)))
        stacked = _STACKED.fullmatch(inner)
        return Place(part, part, stacked[1] if stacked else _role(block, inner))
    numbered = _NUMBERED.fullmatch(site.path)
    if site.component.startswith("text_encoder"):
        part = site.component.replace("_", " ")
        return Place(part, part, numbered[3] if numbered else site.path)
    prefix = "" if site.component in {"transformer", "model"} else f"{site.component} "
    if numbered is None:
        return Place(f"{prefix}{OUTSIDE}", f"{prefix}{OUTSIDE}", site.path)
    part = f"{prefix}{numbered[1]}"
    return Place(part, f"{part} {numbered[2]}", numbered[3])


def network_order(part: str) -> tuple[object, ...]:
    """Gives a key that sorts parts and columns as the network runs, text encoders last."""
    first = part.partition(" ")[0]
    rank = _ORDER.index(first) if first in _ORDER else len(_ORDER) + part.startswith("text encoder")
    return (rank, *(int(word) if word.isdigit() else word for word in re.split(r"(\d+)", part)))


def _words(block: str) -> tuple[str, str]:
    found = _BLOCK.fullmatch(block)
    return (found[1], found[2] or "") if found else (block, "")


def _role(block: str, inner: str) -> str:
    """A sampler's only layer is called by the sampler, what lies outside the blocks by its path."""
    if not inner:
        return block
    kind = block.split(".")[-2]
    return kind if kind.endswith("samplers") else inner
