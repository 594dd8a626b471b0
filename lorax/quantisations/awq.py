"""AWQ (arXiv 2306.00978) as AutoAWQ saves it for its GEMM kernels: 4 bits, in groups of inputs.

qweight is (inputs, outputs / 8): eight outputs share a word, in the order 0, 2, 4, 6, 1, 3, 5, 7, lowest bits first.
W = scale * (number - zero).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lorax.quantisation import Misfit, Quantisation, Settings, matrix, require_shape, require_type, unpack

if TYPE_CHECKING:
    from torch import Tensor

    from lorax.stored import Plain

_BITS = 4
_PLACE_OF = (0, 4, 1, 5, 2, 6, 3, 7)
"""The place in its word of each of eight outputs."""


def _why_not(settings: Settings) -> str:
    version = str(settings.get("version", "gemm")).lower()
    if version != "gemm":
        return f"version is {version!r}; read is gemm"
    bits = settings.get("bits", settings.get("w_bit", _BITS))
    return "" if bits == _BITS else f"bits is {bits!r}; read are {_BITS}"


def _shape(tensors: Mapping[str, Plain], _settings: Settings) -> tuple[int, ...]:
    require_type(tensors, "qweight", "I32")
    require_type(tensors, "qzeros", "I32")
    inputs, words = matrix(tensors, "qweight")
    groups, outputs = matrix(tensors, "scales")
    if outputs != 8 * words or inputs % groups:
        raise Misfit(f"qweight {[inputs, words]} and scales {[groups, outputs]} do not fit each other at {_BITS} bits")
    require_shape(tensors, "qzeros", (groups, words))
    return outputs, inputs


def _decode(tensors: Mapping[str, Tensor], _settings: Settings, shape: tuple[int, ...]) -> Tensor:
    outputs, inputs = shape
    numbers, zeros = (_ordered(tensors[role], outputs) for role in ("qweight", "qzeros"))
    scales = tensors["scales"].float()
    group = inputs // len(scales)
    return ((numbers - zeros.repeat_interleave(group, 0)).float() * scales.repeat_interleave(group, 0)).T


def _ordered(words: Tensor, count: int) -> Tensor:
    found = unpack(words, _BITS, count)
    return found.reshape(len(found), -1, 8)[:, :, list(_PLACE_OF)].reshape(len(found), count)


QUANTISATION = Quantisation(
    name="awq",
    summary="AWQ in 4 bits, as AutoAWQ saves it for its GEMM kernels",
    reference="arXiv 2306.00978; AutoAWQ",
    methods=frozenset({"awq"}),
    required=frozenset({"qweight", "qzeros", "scales"}),
    shape=_shape,
    decode=_decode,
    needs_settings=True,
    why_not=_why_not,
)
