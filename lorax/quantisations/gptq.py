"""GPTQ (arXiv 2210.17323) as AutoGPTQ, GPTQModel and optimum save it: 2, 3, 4 or 8 bits, in groups of inputs.

qweight packs the numbers of an output along its inputs, qzeros those of a group along the outputs; g_idx says which
group an input belongs to. W = scale * (number - zero). The first version of the format stores zero - 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lorax.quantisation import Misfit, Quantisation, Settings, matrix, number, require_shape, require_type, unpack

if TYPE_CHECKING:
    from torch import Tensor

    from lorax.stored import Plain

_WIDTHS = (2, 3, 4, 8)
_FORMATS = ("", "gptq", "gptq_v2")


def _format(settings: Settings) -> str:
    return str(settings.get("checkpoint_format") or "")


def _why_not(settings: Settings) -> str:
    if settings.get("is_marlin_format") or _format(settings) not in _FORMATS:
        return f"checkpoint_format is {_format(settings) or 'marlin'!r}; read are gptq and gptq_v2"
    return "" if settings.get("bits") in _WIDTHS else f"bits is {settings.get('bits')!r}; read are 2, 3, 4 and 8"


def _shape(tensors: Mapping[str, Plain], settings: Settings) -> tuple[int, ...]:
    bits = number(settings, "bits", 4)
    require_type(tensors, "qweight", "I32")
    require_type(tensors, "qzeros", "I32")
    words, outputs = matrix(tensors, "qweight")
    groups, width = matrix(tensors, "scales")
    inputs = words * 32 // bits
    if width != outputs or words * 32 % bits or groups > inputs:
        raise Misfit(f"qweight {[words, outputs]} and scales {[groups, width]} do not fit each other at {bits} bits")
    require_shape(tensors, "qzeros", (groups, -(-outputs * bits // 32)))
    require_shape(tensors, "g_idx", (inputs,))
    return outputs, inputs


def _decode(tensors: Mapping[str, Tensor], settings: Settings, shape: tuple[int, ...]) -> Tensor:
    bits = number(settings, "bits", 4)
    outputs, inputs = shape
    zeros = unpack(tensors["qzeros"], bits, outputs)
    if _format(settings) != "gptq_v2":
        zeros = (zeros + 1) & ((1 << bits) - 1)
    group = _groups(tensors, len(zeros), inputs)
    numbers = unpack(tensors["qweight"].T, bits, inputs)
    scales = tensors["scales"].float()
    return scales[group].T * (numbers - zeros[group].T).float()


def _groups(tensors: Mapping[str, Tensor], groups: int, inputs: int) -> Tensor:
    """The group of each input; without g_idx the groups follow one another."""
    import torch

    if "g_idx" not in tensors:
        return torch.arange(inputs) // -(-inputs // groups)
    group = tensors["g_idx"].long()
    if int(group.min()) < 0 or int(group.max()) >= groups:
        raise Misfit(f"g_idx names groups from {int(group.min())} to {int(group.max())}, and there are {groups}")
    return group


QUANTISATION = Quantisation(
    name="gptq",
    summary="GPTQ in 2, 3, 4 or 8 bits, of both versions of its format, with and without act-order",
    reference="arXiv 2210.17323; AutoGPTQ, GPTQModel",
    methods=frozenset({"gptq"}),
    required=frozenset({"qweight", "qzeros", "scales"}),
    optional=frozenset({"g_idx"}),
    heeds=frozenset({"bits", "checkpoint_format"}),
    shape=_shape,
    decode=_decode,
    needs_settings=True,
    why_not=_why_not,
)
