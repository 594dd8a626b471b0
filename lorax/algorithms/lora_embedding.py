"""LoRA of a lookup table, as peft writes it: the table (entries, width) changes by scale * (B @ A) transposed.

embedding_down is A (rank, entries), embedding_up is B (width, rank), both without a `.weight` in the file. The update
is an ordinary low-rank one of the table: its up factor is A transposed, its down factor B transposed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lorax.adapter import LowRank, SiteShape
from lorax.algorithm import Algorithm, Encoded, Layout, misfit, require_floats, require_rank, require_scalar
from lorax.safe_header import ReadLimits, TensorEntry

if TYPE_CHECKING:
    from torch import Tensor

_FACTORS = frozenset({"embedding_down", "embedding_up"})


def _layout(entries: Mapping[str, TensorEntry], limits: ReadLimits) -> Layout:
    require_floats(entries, _FACTORS)
    require_scalar(entries, "alpha")
    down, up = entries["embedding_down"].shape, entries["embedding_up"].shape
    if not (len(down) == len(up) == 2 and down[0] == up[1]):
        raise misfit(entries, "(rank, entries) and (width, rank) are expected")
    layout = Layout(SiteShape(down[1], up[0]), rank=down[0])
    require_rank(layout, entries["embedding_down"], limits)
    return layout


def _decode(tensors: Mapping[str, Tensor], scale: float, shape: SiteShape) -> LowRank:
    up, down = tensors["embedding_down"].mT.contiguous(), tensors["embedding_up"].mT.contiguous()
    return LowRank(up, down, scale, shape.kernel)


def _encode(update: LowRank) -> Encoded:
    tensors = {"embedding_down": update.up.mT.contiguous(), "embedding_up": update.down.mT.contiguous()}
    return Encoded(tensors, update.rank, update.scale)


ALGORITHM = Algorithm(
    name="lora_embedding",
    summary="low-rank factors of a lookup table (peft)",
    required=_FACTORS,
    optional=frozenset({"alpha"}),
    layout=_layout,
    decode=_decode,
    encode=_encode,
)
