"""bitsandbytes in 8 bits (LLM.int8(), arXiv 2208.07339): a row of whole numbers times its largest magnitude / 127."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lorax.quantisation import Misfit, Quantisation, Settings, matrix, require_shape, require_type

if TYPE_CHECKING:
    from torch import Tensor

    from lorax.stored import Plain

_ROW_MAJOR = 0


def _shape(tensors: Mapping[str, Plain], _settings: Settings) -> tuple[int, ...]:
    require_type(tensors, "weight", "I8")
    rows, columns = matrix(tensors, "weight")
    require_shape(tensors, "SCB", (rows,))
    return rows, columns


def _decode(tensors: Mapping[str, Tensor], _settings: Settings, _shape: tuple[int, ...]) -> Tensor:
    if "weight_format" in tensors and int(tensors["weight_format"]) != _ROW_MAJOR:
        raise Misfit("its numbers lie in the order of one kind of GPU; save it anew with bitsandbytes 0.45 or later")
    return tensors["weight"].float() * (tensors["SCB"].float() / 127)[:, None]


QUANTISATION = Quantisation(
    name="bitsandbytes-int8",
    summary="bitsandbytes in 8 bits",
    reference="arXiv 2208.07339; bitsandbytes",
    methods=frozenset({"bitsandbytes", "bitsandbytes_8bit"}),
    required=frozenset({"weight", "SCB"}),
    optional=frozenset({"weight_format"}),
    marks=frozenset({"SCB"}),
    shape=_shape,
    decode=_decode,
)
