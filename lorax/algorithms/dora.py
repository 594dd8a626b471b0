"""DoRA: W' = m * (W + dW) / ||W + dW||, dW a low-rank update with its scale inside (arXiv 2402.09353, equation 5).

The norm is taken per output (over inputs and taps; the paper, peft, ai-toolkit, LyCORIS with wd_on_out) or per input
(over outputs and taps; LyCORIS otherwise, OneTrainer's default), as the shape of the magnitude says: (out) or
(out, 1, ...) is per output, (1, in, ...) per input. peft stores (1, out, 1, 1) for a convolution, which cannot be told
from (1, in, 1, 1) where both sizes are equal: a dialect that knows its magnitudes to be per output uses the role
magnitude_out. The norm has the smallest number above zero added that 1 can be told from (LyCORIS; peft adds nothing,
the same up to rounding). Strength 1 is meant; LyCORIS blends m / ||W + dW|| towards 1 for others. dW may be of LoRA,
LoHa or LoKr, as LyCORIS writes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lorax.adapter import SiteShape, Update
from lorax.algorithm import Algorithm, Encoded, Layout, incomplete, misfit, no_rows, require_floats, require_weight
from lorax.safe_header import ReadLimits, TensorEntry

if TYPE_CHECKING:
    from torch import Tensor

_MAGNITUDES = frozenset({"magnitude", "magnitude_out"})
_INNER = ("lora", "loha", "lokr")
_INNER_ROLES = frozenset({
    "alpha", "down", "up", "mid", "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2",
    "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2",
})  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class DoRA:
    """Holds an update that is added first, and the lengths that rows or columns of the sum are brought to.

    magnitude: (out) where per_output, else (in).
    """

    inner: Update
    magnitude: Tensor
    per_output: bool

    @property
    def algorithm(self) -> str:
        """Gives the name of the algorithm."""
        return "dora"

    @property
    def kernel(self) -> tuple[int, ...] | None:
        """Gives the kernel of the weight that is patched."""
        return self.inner.kernel

    @property
    def needs_base(self) -> bool:
        """Tells that the change depends on the base weight."""
        return True

    @classmethod
    def of_gain(cls, inner: Update, gain: Tensor, weight: Tensor, *, per_output: bool) -> DoRA:
        """Gives the update whose gain on this weight is the one given: its magnitude is gain * ||W + dW||.

        gain: (out) where per_output, else (in), or in any shape with as many numbers.
        """
        lengths = _lengths(weight + inner.dense(weight), per_output=per_output).flatten()
        return cls(inner, gain.to(lengths.dtype).flatten() * lengths, per_output)

    def low_rank(self) -> None:
        """Gives nothing: the lengths of all rows or columns of the base weight change."""

    def gain(self, weight: Tensor) -> Tensor:
        """Gives m / ||W + dW|| per output or input, shaped to multiply the weight. Raises ValueError without weight."""
        return self._gain(weight + self.inner.dense(weight))

    def dense(self, weight: Tensor | None = None) -> Tensor:
        """Forms the change in the shape of the weight. Raises ValueError without the weight."""
        weight = require_weight(weight, "DoRA")
        moved = weight + self.inner.dense(weight)
        return self._gain(moved) * moved - weight

    def rows(self, begin: int, end: int) -> DoRA:
        """Gives the change of rows [begin, end). Raises Unsupported where lengths are per input, over all rows."""
        if not self.per_output:
            raise no_rows("DoRA", f"its lengths are per input, over more rows than {begin} to {end}")
        return DoRA(self.inner.rows(begin, end), self.magnitude[begin:end], per_output=True)

    def _gain(self, moved: Tensor) -> Tensor:
        lengths = _lengths(moved, per_output=self.per_output)
        return self.magnitude.to(moved.dtype).reshape(lengths.shape) / lengths


def _lengths(moved: Tensor, *, per_output: bool) -> Tensor:
    """Gives ||W + dW|| per output or input, shaped to multiply the weight, and never zero."""
    kept = 0 if per_output else 1
    summed = [axis for axis in range(moved.ndim) if axis != kept]
    norm: Tensor = torch.linalg.vector_norm(moved, dim=summed, keepdim=True)
    return norm + torch.finfo(moved.dtype).eps


def _claims(roles: frozenset[str]) -> bool:
    return len(roles & _MAGNITUDES) == 1 and _inner_of(roles - _MAGNITUDES) is not None


def _inner_of(roles: Iterable[str]) -> Algorithm | None:
    # The registry holds this module too, so it is asked only when all of them are there.
    from lorax.algorithms import ALGORITHMS

    known = (ALGORITHMS[name] for name in _INNER)
    return next((algorithm for algorithm in known if algorithm.claims_roles(frozenset(roles))), None)


def _layout(entries: Mapping[str, TensorEntry], limits: ReadLimits) -> Layout:
    require_floats(entries, _MAGNITUDES)
    inner = {role: entry for role, entry in entries.items() if role not in _MAGNITUDES}
    algorithm = _inner_of(inner)
    if algorithm is None or algorithm.layout is None:
        raise incomplete(entries, "update of LoRA, LoHa or LoKr")
    found = algorithm.layout(inner, limits)
    [(role, entry)] = [(role, entry) for role, entry in entries.items() if role in _MAGNITUDES]
    if found.shape is not None and _axis(role, entry.shape, found.shape) is None:
        raise misfit(entries, f"a magnitude of (out), (out, 1, ...) or (1, in, ...) is expected for {found.shape}")
    return Layout(
        found.shape, found.rank, lambda wanted: found.fits(wanted) and _axis(role, entry.shape, wanted) is not None
    )


def _axis(role: str, shape: tuple[int, ...], site: SiteShape) -> int | None:
    """Gives the axis that a magnitude is along, 0 for outputs and 1 for inputs, None where it fits neither."""
    size = math.prod(shape)
    by_output = size == site.out_features
    if role == "magnitude_out" or len(shape) < 2 or shape[0] == size:
        return 0 if by_output else None
    if shape[1] != size:
        return None
    if size == site.in_features:
        return 1
    return 0 if by_output and len(shape) > 2 else None


def _decode(tensors: Mapping[str, Tensor], scale: float, shape: SiteShape) -> DoRA:
    [(role, magnitude)] = [(role, tensor) for role, tensor in tensors.items() if role in _MAGNITUDES]
    inner = {role: tensor for role, tensor in tensors.items() if role not in _MAGNITUDES}
    algorithm = _inner_of(inner)
    if algorithm is None or algorithm.decode is None:
        raise TypeError(f"no algorithm adds up {', '.join(inner)}")
    return DoRA(
        algorithm.decode(inner, scale, shape),
        magnitude.flatten(),
        per_output=_axis(role, tuple(magnitude.shape), shape) == 0,
    )


def _encode(update: DoRA) -> Encoded:
    """Gives the magnitude in LyCORIS's shape, (out, 1, ...) or (1, in, ...)."""
    from lorax.algorithms import ALGORITHMS

    encode = ALGORITHMS[update.inner.algorithm].encode
    if encode is None:
        raise TypeError(f"{update.inner.algorithm} is never written")
    inner = encode(update.inner)
    ones = (1,) * len(update.kernel or ())
    shape = (-1, 1, *ones) if update.per_output else (1, -1, *ones)
    return Encoded({**inner.tensors, "magnitude": update.magnitude.reshape(shape)}, inner.rank, inner.scale)


ALGORITHM = Algorithm(
    name="dora",
    summary="LoRA, LoHa or LoKr with the length of every output or input given apart",
    required=frozenset(),
    optional=_MAGNITUDES | _INNER_ROLES,
    claims=_claims,
    layout=_layout,
    decode=_decode,
    encode=_encode,
)
