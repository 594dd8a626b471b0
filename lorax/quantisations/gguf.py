"""GGUF, the files of llama.cpp: blocks of 32 or 256 numbers of a row, each with scales of its own."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING

from lorax.gguf_types import SIZES
from lorax.quantisation import Misfit, Quantisation, Settings

if TYPE_CHECKING:
    from torch import Tensor

    from lorax.stored import Plain

_ROLE = "ggml_blocks"


def _block_type(settings: Settings) -> str:
    name = str(settings.get("type"))
    if name not in SIZES:
        raise Misfit(f"its numbers are {name}; read are F32, F16, BF16, {', '.join(SIZES)}")
    return name


def _shape(tensors: Mapping[str, Plain], settings: Settings) -> tuple[int, ...]:
    kind = SIZES[_block_type(settings)]
    shape = settings.get("shape")
    whole = isinstance(shape, tuple) and prod(shape) % kind.numbers == 0
    if (
        not isinstance(shape, tuple)
        or not whole
        or prod(tensors[_ROLE].shape) != prod(shape) // kind.numbers * kind.size
    ):
        raise Misfit(f"{prod(tensors[_ROLE].shape)} bytes do not hold a weight {shape}")
    return shape


def _decode(tensors: Mapping[str, Tensor], settings: Settings, shape: tuple[int, ...]) -> Tensor:
    from lorax.gguf_blocks import decode_blocks

    return decode_blocks(_block_type(settings), tensors[_ROLE]).reshape(shape)


QUANTISATION = Quantisation(
    name="gguf",
    summary="GGUF, the files of llama.cpp: Q4_0 to Q8_0, Q2_K to Q6_K, IQ4_NL, IQ4_XS, MXFP4",
    reference="llama.cpp, ggml",
    methods=frozenset({"gguf"}),
    required=frozenset({_ROLE}),
    heeds=frozenset({"type", "shape"}),
    shape=_shape,
    decode=_decode,
    needs_settings=True,
)
