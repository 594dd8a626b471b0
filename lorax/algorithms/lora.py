"""LoRA, for linear layers and convolutions: the update is scale * up @ down (arXiv 2106.09685, equation 3).

Linear: down (rank, in), up (out, rank). Convolution: down (rank, in, kh, kw), up (out, rank, 1, 1); the update of the
weight seen as a matrix (out, in*kh*kw) is the product of up as (out, rank) and down as (rank, in*kh*kw).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lorax.adapter import LowRank, SiteShape
from lorax.algorithm import Algorithm, Layout
from lorax.errors import BadFile
from lorax.safe_header import ReadLimits, TensorEntry

if TYPE_CHECKING:
    from torch import Tensor

_FLOATS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})


def _layout(entries: Mapping[str, TensorEntry], limits: ReadLimits) -> Layout:
    down, up = entries["down"], entries["up"]
    for entry in (down, up):
        if entry.dtype not in _FLOATS:
            raise BadFile("bad-dtype", f"tensor {entry.name!r} is {entry.dtype}; a factor is a floating-point tensor")
    if (alpha := entries.get("alpha")) is not None and alpha.shape not in {(), (1,)}:
        raise BadFile("bad-shape", f"tensor {alpha.name!r} has shape {list(alpha.shape)}; alpha is a single number")
    layout = Layout(_site_shape(down, up), rank=down.shape[0])
    _check_rank(layout, down.name, limits)
    return layout


def _site_shape(down: TensorEntry, up: TensorEntry) -> SiteShape:
    match (*down.shape, *up.shape):
        case (rank, columns, out, inner) if len(down.shape) == 2 and rank == inner:
            return SiteShape(out, columns)
        case (rank, channels, height, width, out, inner) | (rank, channels, height, width, out, inner, 1, 1) if (
            len(down.shape) == 4 and rank == inner
        ):
            return SiteShape(out, channels, (height, width))
    rule = "(rank, in) and (out, rank), or (rank, in, kh, kw) and (out, rank, 1, 1) are expected"
    seen = f"{down.name!r} {list(down.shape)} and {up.name!r} {list(up.shape)}"
    raise BadFile("bad-shape", f"the factors {seen} do not fit each other: {rule}")


def _check_rank(layout: Layout, name: str, limits: ReadLimits) -> None:
    narrow = min(layout.shape.out_features, layout.shape.columns)
    largest = min(limits.rank, int(limits.rank_to_width * narrow))
    if layout.rank > largest:
        rule = f"for a weight of shape {layout.shape} at most {largest} is read"
        raise BadFile("rank-too-large", f"{name!r} has rank {layout.rank}; {rule}")


def _decode(tensors: Mapping[str, Tensor], scale: float, kernel: tuple[int, int] | None) -> LowRank:
    up, down = tensors["up"], tensors["down"]
    return LowRank(up.reshape(up.shape[0], -1).float(), down.reshape(down.shape[0], -1).float(), scale, kernel)


ALGORITHM = Algorithm(
    name="lora",
    summary="low-rank factors of linear layers and convolutions",
    required=frozenset({"down", "up"}),
    optional=frozenset({"alpha"}),
    layout=_layout,
    decode=_decode,
)
