"""The numbers of a file: are they finite, and how do factors and alpha fit its element type, strength unchanged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lorax.errors import Unsupported

if TYPE_CHECKING:
    from lorax.dialect import EncodedModule

_PAIRS = (("up", "down"), ("embedding_down", "embedding_up"))
# The update is proportional to each of these tensors, so one of them can take a part of the scale.
_CARRIERS = (
    "up", "embedding_up", "hada_w1_a", "lokr_w1", "lokr_w1_a", "diff", "delta", "lokr_w2", "lokr_w2_a",
)  # fmt: skip


HALVES = frozenset({torch.float16, torch.bfloat16})
_SUMMED = HALVES | {torch.float32}


def count_non_finite(tensor: Tensor) -> int:
    """Counts the values of a tensor that are NaN or infinite."""
    # Where all is well, one pass without a copy: a sum is finite only if its numbers are. It may overflow, so then they
    # are counted.
    if tensor.dtype in _SUMMED and math.isfinite(float(tensor.sum(dtype=torch.float32))):
        return 0
    return int((~torch.isfinite(tensor.float())).sum()) if tensor.is_floating_point() else 0


def for_file(tensors: Mapping[str, Tensor], *, dtype: torch.dtype) -> dict[str, Tensor]:
    """Gives the tensors of a module, by role, in the element type asked for; those that hold no floats stay.

    Where half precision would overflow or lose small values of a pair of low-rank factors, a power of two moves from
    one factor to the other, which is exact. Tensors that are of that type already stay as they are.
    """
    balanced = dict(tensors)
    for first, second in _PAIRS:
        if first in balanced and second in balanced:
            balanced[first], balanced[second] = _balanced(balanced[first], balanced[second], dtype)
    return {role: _cast(tensor, dtype) for role, tensor in balanced.items()}


def with_alpha(module: EncodedModule, *, dtype: torch.dtype) -> tuple[dict[str, Tensor], Tensor | None]:
    """Gives the tensors for a file, and alpha = scale * rank without dimensions, both of the element type asked for.

    What rounding alpha to that type takes away goes into a factor, so that alpha / rank times the factors is the
    update. A scale of zero would be read back as "not given": it is written as a factor of zeros. alpha is None for an
    algorithm that has none.
    """
    if module.scale is None:
        return for_file(module.tensors, dtype=dtype), None
    if module.rank == 0:
        return folded(module, dtype=dtype), None
    if module.scale == 0:
        return folded(module, dtype=dtype), torch.tensor(float(module.rank), dtype=dtype)
    wanted = module.scale * module.rank
    alpha = torch.tensor(wanted, dtype=torch.float64).to(dtype)
    rounded = float(alpha)
    if rounded in {wanted, 0.0} or not math.isfinite(rounded):
        return for_file(module.tensors, dtype=dtype), alpha
    return for_file(_times(module.tensors, wanted / rounded), dtype=dtype), alpha


def folded(module: EncodedModule, *, dtype: torch.dtype) -> dict[str, Tensor]:
    """Gives the tensors for a file that has no word for the scale: a factor is multiplied by it."""
    scaled = module.tensors if module.scale in {None, 1.0} else _times(module.tensors, module.scale or 0.0)
    return for_file(scaled, dtype=dtype)


def with_magnitude_out(module: EncodedModule) -> dict[str, Tensor]:
    """Gives the tensors of a module, a magnitude of DoRA in peft's shape: (out), (1, out, 1, ...) for a convolution.

    Raises Unsupported("unwritable") for a magnitude per input, which peft and diffusers do not know.
    """
    tensors = dict(module.tensors)
    magnitude = tensors.pop("magnitude", None)
    if magnitude is None:
        return tensors
    if magnitude.shape[0] != magnitude.numel() or magnitude.numel() == 1:
        path = module.module.path
        message = f"the DoRA magnitude of {path} is per input; it can be written in the dialects of LyCORIS and kohya"
        raise Unsupported("unwritable", message)
    shape = (1, -1, *magnitude.shape[2:]) if magnitude.dim() > 2 else (-1,)
    return {**tensors, "magnitude_out": magnitude.reshape(shape)}


def _times(tensors: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    carrier = next((role for role in _CARRIERS if role in tensors), None)
    if carrier is None:
        raise ValueError(f"none of {sorted(tensors)} can take a scale; its algorithm may not have one")
    factor = tensors[carrier]
    return {**tensors, carrier: (factor.float() if factor.itemsize < 4 else factor) * scale}


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous()


def _balanced(up: Tensor, down: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    if dtype != torch.float16 or up.dtype == down.dtype == dtype:
        return up, down
    largest = [max(abs(float(end)) for end in factor.aminmax()) for factor in (up, down)]
    if not all(0 < size < math.inf for size in largest):
        return up, down
    # Values below 2^-14 lose digits in half precision; keep 2^-7 of room under the largest value of each factor.
    if all(2**-7 < size < 2**15 for size in largest):
        return up, down
    shift = round((math.log2(largest[1]) - math.log2(largest[0])) / 2)
    return up * 2.0**shift, down * 2.0**-shift
