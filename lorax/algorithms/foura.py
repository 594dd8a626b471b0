"""FouRA without its gate: low-rank factors that work on cosine frequencies, an exact LoRA (arXiv 2406.08798, eq. 4).

y = W x + scale * C^-1(up @ down @ C(x)), C the orthonormal cosine transform (DCT-II) along the features: linear, so
the factors fold into C^T-transformed ones. A gate chooses ranks by the input; a module that has one (foura_gate...) is
refused as gated FouRA. The authors published neither code nor files; foura_down and foura_up are the names that lorax
gives to the factors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from lorax.adapter import LowRank, SiteShape
from lorax.algorithm import Algorithm, Layout, misfit, require_floats, require_rank, require_scalar
from lorax.safe_header import ReadLimits, TensorEntry

if TYPE_CHECKING:
    from torch import Tensor


def cosine_transform(size: int, dtype: torch.dtype) -> Tensor:
    """Gives the orthonormal matrix of the DCT-II, (frequencies, features)."""
    features = torch.arange(size, dtype=torch.float64) + 0.5
    waves = torch.cos(torch.outer(torch.arange(size, dtype=torch.float64), features) * (torch.pi / size))
    waves *= (2 / size) ** 0.5
    waves[0] *= 0.5**0.5
    return waves.to(dtype)


def _layout(entries: Mapping[str, TensorEntry], limits: ReadLimits) -> Layout:
    require_floats(entries, {"foura_down", "foura_up"})
    require_scalar(entries, "alpha")
    down, up = entries["foura_down"].shape, entries["foura_up"].shape
    if not (len(down) == len(up) == 2 and down[0] == up[1]):
        raise misfit(entries, "(rank, in) and (out, rank) are expected")
    layout = Layout(SiteShape(up[0], down[1]), down[0])
    require_rank(layout, entries["foura_down"], limits)
    return layout


def _decode(tensors: Mapping[str, Tensor], scale: float, shape: SiteShape) -> LowRank:
    down, up = tensors["foura_down"], tensors["foura_up"]
    folded_down = down @ cosine_transform(down.shape[1], down.dtype)
    folded_up = cosine_transform(up.shape[0], up.dtype).mT @ up
    return LowRank(folded_up, folded_down, scale, shape.kernel)


ALGORITHM = Algorithm(
    name="foura",
    summary="low-rank factors on cosine frequencies, without a gate (FouRA); read only",
    required=frozenset({"foura_down", "foura_up"}),
    optional=frozenset({"alpha"}),
    layout=_layout,
    decode=_decode,
)
