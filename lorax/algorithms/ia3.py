"""IA3: every output or every input of a layer is scaled, W' = W * l (arXiv 2205.05638).

LyCORIS stores `weight`, l - 1, with `on_input` (0 or 1): role `ia3`, shape (n) or (1, n, 1, 1). peft stores l itself,
role `ia3_l`: (out, 1) or (1, in) for a linear layer, (1, n, 1, 1) for a convolution, which leaves open which side is
meant where both are equal. peft scales the bias of a layer along with its outputs; that is not part of this update,
see `scales_bias`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorax.adapter import SiteShape
from lorax.algorithm import (
    Algorithm,
    Encoded,
    Layout,
    incomplete,
    misfit,
    no_rows,
    require_floats,
    require_scalar,
    require_weight,
)
from lorax.errors import BadFile, Unsupported
from lorax.safe_header import ReadLimits, TensorEntry

if TYPE_CHECKING:
    from torch import Tensor

_LYCORIS, _PEFT = frozenset({"ia3", "on_input"}), frozenset({"ia3_l"})


@dataclass(frozen=True, slots=True, eq=False)
class IA3:
    """Holds one number per input (on_input) or per output, in the file's shape.

    is_factor: the numbers multiply the weight (peft); otherwise they are what is added to 1 (LyCORIS).
    """

    numbers: Tensor
    on_input: bool
    is_factor: bool
    kernel: tuple[int, ...] | None = None

    @property
    def algorithm(self) -> str:
        """Gives the name of the algorithm."""
        return "ia3"

    @property
    def needs_base(self) -> bool:
        """Tells that the change depends on the base weight."""
        return True

    @property
    def scales_bias(self) -> bool:
        """Tells whether the program that wrote it scales the bias of the layer, if any, by the same numbers."""
        return self.is_factor and not self.on_input

    def low_rank(self) -> None:
        """Gives nothing: the change has the rank of the base weight."""

    def dense(self, weight: Tensor | None = None) -> Tensor:
        """Forms the change in the shape of the weight. Raises ValueError without the weight."""
        weight = require_weight(weight, "IA3")
        added = self.numbers.to(weight.dtype).flatten() - (1 if self.is_factor else 0)
        shape = [1] * weight.ndim
        shape[1 if self.on_input else 0] = -1
        return weight * added.reshape(shape)

    def rows(self, begin: int, end: int) -> IA3:
        """Gives the change of rows [begin, end). Raises Unsupported for numbers that peft stores in another shape."""
        if self.on_input:
            return self
        if self.numbers.ndim > 1 and self.numbers.shape[0] == 1:
            raise no_rows("IA3", f"rows {begin} to {end} of a convolution's outputs")
        return IA3(self.numbers[begin:end], self.on_input, self.is_factor, self.kernel)


def _claims(roles: frozenset[str]) -> bool:
    return bool(roles & (_LYCORIS | _PEFT)) and (roles <= _LYCORIS | {"alpha"} or roles <= _PEFT | {"alpha"})


def _layout(entries: Mapping[str, TensorEntry], limits: ReadLimits) -> Layout:
    del limits
    role = "ia3_l" if "ia3_l" in entries else "ia3"
    if role not in entries or (role == "ia3" and "on_input" not in entries):
        raise incomplete(entries, ", ".join(sorted(_LYCORIS - entries.keys())))
    require_floats(entries, {role})
    require_scalar(entries, "on_input")
    shape = entries[role].shape
    size = math.prod(shape)
    if not shape or (size not in shape[:2]):
        raise misfit(entries, "one number per output or input is expected: (n), (out, 1), (1, in) or (1, n, 1, 1)")
    if len(shape) == 2 and role == "ia3_l" and size > 1:
        axis = 1 if shape[1] == size else 0
        return Layout(None, 0, lambda wanted: wanted.weight_shape[axis] == size)
    return Layout(None, 0, lambda wanted: size in {wanted.out_features, wanted.in_features})


def _decode(tensors: Mapping[str, Tensor], scale: float, shape: SiteShape) -> IA3:
    del scale
    if "ia3" in tensors:
        found = IA3(tensors["ia3"], bool(float(tensors["on_input"])), is_factor=False, kernel=shape.kernel)
    else:
        numbers = tensors["ia3_l"]
        found = IA3(numbers, _is_on_input(numbers, shape), is_factor=True, kernel=shape.kernel)
    side, wanted = ("inputs", shape.in_features) if found.on_input else ("outputs", shape.out_features)
    if found.numbers.numel() != wanted:
        seen = f"{found.numbers.numel()} numbers are said to scale the {side} of a weight of shape {shape}"
        raise BadFile("bad-shape", f"{seen}, which has {wanted}")
    return found


def _is_on_input(numbers: Tensor, shape: SiteShape) -> bool:
    size = numbers.numel()
    if numbers.ndim == 2 and size > 1:
        return int(numbers.shape[1]) == size
    if shape.out_features == shape.in_features:
        message = (
            f"{size} numbers scale either the outputs or the inputs of a convolution that has {size} of each, and the "
            "file does not say which; merge the adapter with the program that trained it"
        )
        raise Unsupported("unsupported-algorithm", message)
    return size == shape.in_features


def _encode(update: IA3) -> Encoded:
    if update.is_factor:
        return Encoded({"ia3_l": update.numbers.contiguous()}, rank=0, scale=None)
    flag = update.numbers.new_tensor(float(update.on_input))
    return Encoded({"ia3": update.numbers.contiguous(), "on_input": flag}, rank=0, scale=None)


ALGORITHM = Algorithm(
    name="ia3",
    summary="a factor for every output or every input (IA3)",
    required=frozenset(),
    optional=_LYCORIS | _PEFT | {"alpha"},
    claims=_claims,
    layout=_layout,
    decode=_decode,
    encode=_encode,
)
