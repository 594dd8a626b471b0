"""LoRA, for linear layers and convolutions: the update is scale * up @ down (arXiv 2106.09685, equation 3).

Linear: down (rank, in), up (out, rank). Convolution: down (rank, in, *kernel), up (out, rank, 1, 1); the update of the
weight seen as a matrix (out, in * taps) is the product of up as (out, rank) and down as (rank, in * taps). With a
Tucker core `mid` (rank, rank, *kernel), which LyCORIS and kohya's scripts write with use_tucker, down is
(rank, in, 1, 1), and mid and down together are one ordinary down factor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lorax.adapter import LowRank, SiteShape
from lorax.algorithm import Algorithm, Encoded, Layout, incomplete, misfit, require_floats, require_rank, require_scalar
from lorax.safe_header import ReadLimits, TensorEntry

if TYPE_CHECKING:
    from torch import Tensor

FACTORS = frozenset({"down", "up", "mid"})
"""Roles of the factors."""


def factor_layout(entries: Mapping[str, TensorEntry], limits: ReadLimits) -> Layout:
    """Gives the weight that the factors patch. Raises BadFile when they do not fit each other or the limits."""
    if missing := {"down", "up"} - entries.keys():
        raise incomplete(entries, " and no ".join(sorted(missing)))
    factors = {role: entry for role, entry in entries.items() if role in FACTORS}
    require_floats(factors, FACTORS)
    require_scalar(entries, "alpha")
    down, up = entries["down"].shape, entries["up"].shape
    layout = Layout(_weight_shape(factors), rank=down[0])
    require_rank(layout, factors["down"], limits)
    if math.prod(up) != up[0] * down[0]:
        raise misfit(factors, "up is (out, rank), with sizes of 1 after it for a convolution")
    return layout


def _weight_shape(factors: Mapping[str, TensorEntry]) -> SiteShape:
    down, up = factors["down"].shape, factors["up"].shape
    if not (len(down) in {2, 4, 5} and len(up) in {2, len(down)} and up[1] == down[0]):
        rule = "(rank, in) and (out, rank), or (rank, in, kh, kw) and (out, rank, 1, 1) are expected"
        raise misfit(factors, rule)
    kernel = down[2:]
    if "mid" in factors:
        core = factors["mid"].shape
        if core[:2] != (down[0], down[0]) or len(core) not in {4, 5} or math.prod(kernel) != 1:
            raise misfit(factors, "a Tucker core is (rank, rank, kh, kw), and down is (rank, in, 1, 1) beside it")
        kernel = core[2:]
    return SiteShape(up[0], down[1], tuple(kernel) or None)


def factor_update(tensors: Mapping[str, Tensor], scale: float, shape: SiteShape) -> LowRank:
    """Gives the update that the factors mean, a Tucker core folded into the down factor, in their element type."""
    up, down = tensors["up"].flatten(1), tensors["down"].flatten(1)
    if (core := tensors.get("mid")) is not None:
        # The three convolutions in a row: down mixes channels, the core has the taps, up mixes channels again.
        down = (core.movedim(1, -1) @ down).movedim(-1, 1).flatten(1)
    return LowRank(up, down, scale, shape.kernel)


def factor_tensors(update: LowRank) -> dict[str, Tensor]:
    """Gives the factors in the shapes that files use, linear or convolutional after the kernel of the update."""
    if update.kernel is None:
        return {"down": update.down.contiguous(), "up": update.up.contiguous()}
    ones = (1,) * len(update.kernel)
    down = update.down.reshape(update.rank, -1, *update.kernel)
    return {"down": down.contiguous(), "up": update.up.reshape(*update.up.shape, *ones).contiguous()}


def factor_encoding(update: LowRank) -> Encoded:
    """Gives the factors ready to be written."""
    return Encoded(factor_tensors(update), update.rank, update.scale)


ALGORITHM = Algorithm(
    name="lora",
    summary="low-rank factors of linear layers and convolutions, with or without a Tucker core",
    required=frozenset({"down", "up"}),
    optional=frozenset({"alpha", "mid"}),
    layout=factor_layout,
    decode=factor_update,
    encode=factor_encoding,
)
