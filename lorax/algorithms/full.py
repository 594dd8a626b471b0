"""Full change of a weight: `diff`, in the weight's shape, is added as it is (LyCORIS `full`, Wan and ComfyUI files).

Such files have no alpha, so no scale is applied. A diff of one dimension belongs to a norm and is a vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorax.adapter import SiteShape
from lorax.algorithm import Algorithm, Encoded, Layout, misfit, require_floats, working_type
from lorax.safe_header import ReadLimits, TensorEntry

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Full:
    """Holds the whole change of a weight, (out, in) or (out, in, *kernel)."""

    diff: Tensor
    kernel: tuple[int, ...] | None = None

    @property
    def algorithm(self) -> str:
        """Gives the name of the algorithm."""
        return "full"

    @property
    def needs_base(self) -> bool:
        """Tells that the change is known without the base weight."""
        return False

    def low_rank(self) -> None:
        """Gives nothing: a full change has no exact factors that would be smaller."""

    def dense(self, weight: Tensor | None = None) -> Tensor:
        """Gives the change."""
        return self.diff.to(working_type(weight, self.diff))

    def rows(self, begin: int, end: int) -> Full:
        """Gives the change of rows [begin, end)."""
        return Full(self.diff[begin:end], self.kernel)


def _layout(entries: Mapping[str, TensorEntry], limits: ReadLimits) -> Layout:
    del limits
    require_floats(entries, {"diff"})
    shape = entries["diff"].shape
    if len(shape) not in {2, 4, 5}:
        raise misfit(entries, "(out, in) or (out, in, *kernel) is expected")
    return Layout(SiteShape.of(shape), rank=0)


def _decode(tensors: Mapping[str, Tensor], scale: float, shape: SiteShape) -> Full:
    del scale
    return Full(tensors["diff"].reshape(shape.weight_shape), shape.kernel)


def _encode(update: Full) -> Encoded:
    return Encoded({"diff": update.diff.contiguous()}, rank=0, scale=None)


ALGORITHM = Algorithm(
    name="full",
    summary="the whole change of a weight",
    required=frozenset({"diff"}),
    optional=frozenset({"alpha"}),
    layout=_layout,
    decode=_decode,
    encode=_encode,
)
