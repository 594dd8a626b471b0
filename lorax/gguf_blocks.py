"""The blocks of ggml: how 32 or 256 numbers of a row share a scale, for every type that has no table of its own.

Layouts are those of ggml (ggml-common.h of llama.cpp). Each function takes (n, bytes of a block) uint8 and gives
(n, numbers of a block) float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from lorax.gguf_types import SIZES

_CURVE = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""The sixteen levels of IQ4_NL and IQ4_XS."""
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def _half(blocks: Tensor, at: int) -> Tensor:
    """The float16 number at a byte of each block, (n, 1)."""
    return blocks[:, at : at + 2].contiguous().view(torch.float16).float()


def _nibbles(packed: Tensor) -> Tensor:
    """The low halves of some bytes, then the high halves."""
    return torch.cat([packed & 15, packed >> 4], dim=-1)


def _bits(packed: Tensor) -> Tensor:
    """The bits of four bytes, lowest first: (n, 32)."""
    shifts = torch.arange(8, dtype=torch.uint8)
    return ((packed[:, :, None] >> shifts) & 1).reshape(len(packed), -1)


def _q4_0(blocks: Tensor) -> Tensor:
    return (_nibbles(blocks[:, 2:]).float() - 8) * _half(blocks, 0)


def _q4_1(blocks: Tensor) -> Tensor:
    return _nibbles(blocks[:, 4:]).float() * _half(blocks, 0) + _half(blocks, 2)


def _q5_0(blocks: Tensor) -> Tensor:
    numbers = _nibbles(blocks[:, 6:]) | (_bits(blocks[:, 2:6]) << 4)
    return (numbers.float() - 16) * _half(blocks, 0)


def _q5_1(blocks: Tensor) -> Tensor:
    numbers = _nibbles(blocks[:, 8:]) | (_bits(blocks[:, 4:8]) << 4)
    return numbers.float() * _half(blocks, 0) + _half(blocks, 2)


def _q8_0(blocks: Tensor) -> Tensor:
    return blocks[:, 2:].contiguous().view(torch.int8).float() * _half(blocks, 0)


def _iq4_nl(blocks: Tensor) -> Tensor:
    return torch.tensor(_CURVE, dtype=torch.float32)[_nibbles(blocks[:, 2:]).long()] * _half(blocks, 0)


def _mxfp4(blocks: Tensor) -> Tensor:
    levels = torch.tensor([*_E2M1, *(-each for each in _E2M1)])
    return torch.ldexp(levels[_nibbles(blocks[:, 1:]).long()], blocks[:, :1].int() - 127)


def _pairs_of_bits(packed: Tensor) -> Tensor:
    """(n, 64) bytes, a half of 32 bytes after the other, as (n, 2, 4, 32) numbers of two bits, lowest bits first."""
    shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8)[:, None]
    return (packed.reshape(-1, 2, 1, 32) >> shifts) & 3


def _q2_k(blocks: Tensor) -> Tensor:
    scales = blocks[:, :16]
    factors = _half(blocks, 80) * (scales & 15).float()
    offsets = _half(blocks, 82) * (scales >> 4).float()
    numbers = _pairs_of_bits(blocks[:, 16:80]).reshape(-1, 16, 16).float()
    return (factors[:, :, None] * numbers - offsets[:, :, None]).reshape(-1, 256)


def _q3_k(blocks: Tensor) -> Tensor:
    packed = blocks[:, 96:108]
    low = _nibbles(packed[:, :8])
    high = torch.cat([(packed[:, 8:] >> shift) & 3 for shift in (0, 2, 4, 6)], dim=1)
    scales = (low | (high << 4)).float() - 32
    shifts = torch.arange(8, dtype=torch.uint8).reshape(2, 4, 1)
    above = (blocks[:, None, None, :32] >> shifts) & 1
    numbers = _pairs_of_bits(blocks[:, 32:96]).float() - 4 * (1 - above.float())
    factors = _half(blocks, 108) * scales
    return (factors[:, :, None] * numbers.reshape(-1, 16, 16)).reshape(-1, 256)


def _scales_and_offsets(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Eight scales and eight offsets of six bits in twelve bytes."""
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = torch.cat([first & 63, (third & 15) | (first >> 6 << 4)], dim=1)
    offsets = torch.cat([second & 63, (third >> 4) | (second >> 6 << 4)], dim=1)
    return scales.float(), offsets.float()


def _by_eight(blocks: Tensor, numbers: Tensor) -> Tensor:
    """Scales (n, 8, 32) numbers by what stands at the head of a block of Q4_K and Q5_K."""
    scales, offsets = _scales_and_offsets(blocks[:, 4:16])
    factors, lows = _half(blocks, 0) * scales, _half(blocks, 2) * offsets
    return (factors[:, :, None] * numbers.float() - lows[:, :, None]).reshape(-1, 256)


def _q4_k(blocks: Tensor) -> Tensor:
    return _by_eight(blocks, _nibbles(blocks[:, 16:].reshape(-1, 4, 32)).reshape(-1, 8, 32))


def _q5_k(blocks: Tensor) -> Tensor:
    shifts = torch.arange(8, dtype=torch.uint8)[:, None]
    above = (blocks[:, None, 16:48] >> shifts) & 1
    return _by_eight(blocks, _nibbles(blocks[:, 48:].reshape(-1, 4, 32)).reshape(-1, 8, 32) | (above << 4))


def _q6_k(blocks: Tensor) -> Tensor:
    low = _nibbles(blocks[:, :128].reshape(-1, 2, 64)).reshape(-1, 2, 4, 32)
    numbers = (low | (_pairs_of_bits(blocks[:, 128:192]) << 4)).reshape(-1, 16, 16).float() - 32
    factors = _half(blocks, 208) * blocks[:, 192:208].contiguous().view(torch.int8).float()
    return (factors[:, :, None] * numbers).reshape(-1, 256)


def _iq4_xs(blocks: Tensor) -> Tensor:
    shifts = torch.arange(0, 8, 2, dtype=torch.uint8)
    high = ((blocks[:, 2:4, None] >> shifts) & 3).reshape(-1, 8)
    low = torch.stack([blocks[:, 4:8] & 15, blocks[:, 4:8] >> 4], dim=2).reshape(-1, 8)
    factors = _half(blocks, 0) * ((low | (high << 4)).float() - 32)
    numbers = torch.tensor(_CURVE, dtype=torch.float32)[_nibbles(blocks[:, 8:].reshape(-1, 8, 16)).long()]
    return (factors[:, :, None] * numbers).reshape(-1, 256)


DECODERS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "IQ4_NL": _iq4_nl,
    "IQ4_XS": _iq4_xs,
    "MXFP4": _mxfp4,
}
"""What the blocks of every type decode to."""


def decode_blocks(name: str, content: Tensor) -> Tensor:
    """Gives the numbers of some blocks of a type, in one row, from their bytes in one row."""
    return DECODERS[name](content.reshape(-1, SIZES[name].size)).reshape(-1)
