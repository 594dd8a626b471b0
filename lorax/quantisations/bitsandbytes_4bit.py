"""bitsandbytes in 4 bits (nf4, fp4), of QLoRA (arXiv 2305.14314), with and without double quantisation.

Two numbers share a byte, the first in the high half. A number is an entry of a table of 16 (quant_map) times the
largest magnitude of its block (absmax); doubly quantised, that magnitude is itself an entry of a table of 256 times
that of a block of 256, plus an offset. Storage types other than uint8 are the same bytes under another name.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING

from lorax.quantisation import Misfit, Quantisation, Settings, json_tensor, number
from lorax.safe_header import ELEMENT_BYTES

if TYPE_CHECKING:
    from torch import Tensor

    from lorax.stored import Plain

_STATES = frozenset({"weight.quant_state.bitsandbytes__nf4", "weight.quant_state.bitsandbytes__fp4"})
_NESTED = frozenset({"weight.nested_absmax", "weight.nested_quant_map"})


def _shape(tensors: Mapping[str, Plain], _settings: Settings) -> tuple[int, ...]:
    state = json_tensor(_only([plain for role, plain in tensors.items() if role in _STATES]))
    shape = state.get("shape")
    if not isinstance(shape, list) or not shape or not all(type(size) is int and size > 0 for size in shape):
        raise Misfit(f"its state says the shape {str(shape)[:80]!r}")
    count, packed = prod(shape), tensors["weight"]
    if prod(packed.shape) * ELEMENT_BYTES[packed.dtype] != (count + 1) // 2:
        raise Misfit(f"weight {list(packed.shape)} does not hold the {count} numbers of 4 bits that {shape} has")
    blocks = -(-count // number(state, "blocksize", 64))
    if tensors["weight.absmax"].shape != (blocks,):
        raise Misfit(f"weight.absmax has shape {list(tensors['weight.absmax'].shape)} where [{blocks}] is expected")
    if (tensors["weight.absmax"].dtype == "U8") != (tensors.keys() >= _NESTED):
        raise Misfit("the tensors of its double quantisation are not complete")
    return tuple(shape)


def _only(states: list[Plain]) -> Plain:
    if len(states) != 1:
        raise Misfit("it has several states")
    return states[0]


def _decode(tensors: Mapping[str, Tensor], _settings: Settings, shape: tuple[int, ...]) -> Tensor:
    import json

    import torch

    state = json.loads(bytes(next(tensors[role] for role in _STATES & tensors.keys()).tolist()))
    packed = tensors["weight"].reshape(-1).view(torch.uint8)
    halves = torch.stack([packed >> 4, packed & 15], dim=1).reshape(-1)[: prod(shape)]
    numbers = tensors["weight.quant_map"].float()[halves.long()]
    return _scaled(numbers, _magnitudes(tensors, state), int(state["blocksize"])).reshape(shape)


def _magnitudes(tensors: Mapping[str, Tensor], state: Mapping[str, float]) -> Tensor:
    magnitudes = tensors["weight.absmax"]
    if "weight.nested_absmax" not in tensors:
        return magnitudes.float()
    numbers = tensors["weight.nested_quant_map"].float()[magnitudes.long()]
    nested = tensors["weight.nested_absmax"].float()
    return _scaled(numbers, nested, int(state["nested_blocksize"])) + float(state["nested_offset"])


def _scaled(numbers: Tensor, magnitudes: Tensor, block: int) -> Tensor:
    return numbers * magnitudes.repeat_interleave(block)[: len(numbers)]


QUANTISATION = Quantisation(
    name="bitsandbytes-4bit",
    summary="bitsandbytes in 4 bits (nf4 and fp4), with and without double quantisation",
    reference="arXiv 2305.14314; bitsandbytes",
    methods=frozenset({"bitsandbytes", "bitsandbytes_4bit"}),
    required=frozenset({"weight", "weight.absmax", "weight.quant_map"}),
    optional=_NESTED,
    marks=_STATES,
    shape=_shape,
    decode=_decode,
)
