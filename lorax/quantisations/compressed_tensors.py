"""compressed-tensors, of vLLM's llm-compressor: whole numbers packed into words or as they are, 8-bit floats.

weight_packed holds the numbers of an output along its inputs, lowest bits first, raised by half their range; packed
zero points lie along the outputs. Scales are of the weight, of each output, or of groups of inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING

from lorax.quantisation import Misfit, Quantisation, Settings, matrix, require_shape, require_type, unpack

if TYPE_CHECKING:
    from torch import Tensor

    from lorax.stored import Plain

_WIDTHS = (2, 4, 8)
"""Bits at which no number straddles two words, so that all versions of the format agree."""


def _why_not(settings: Settings) -> str:
    sparsity = settings.get("sparsity_config")
    if isinstance(sparsity, dict) and sparsity.get("format", "dense") != "dense":
        return f"the weights are sparse ({sparsity.get('format')})"
    if settings.get("transform_config"):
        return "the weights are rotated (transform_config), so that they are no longer those of the base"
    return ""


def _shape(tensors: Mapping[str, Plain], _settings: Settings) -> tuple[int, ...]:
    if "weight_packed" not in tensors:
        require_type(tensors, "weight", "I8", "F8_E4M3")
        shape = matrix(tensors, "weight")
    else:
        shape = _packed_shape(tensors)
    _check_scales(tensors, shape)
    return shape


def _packed_shape(tensors: Mapping[str, Plain]) -> tuple[int, int]:
    require_type(tensors, "weight_packed", "I32")
    if "weight_shape" not in tensors or prod(tensors["weight_shape"].shape) != 2:
        raise Misfit("weight_shape, which has to hold two sizes, is missing beside weight_packed")
    outputs, inputs = (int(size) for size in tensors["weight_shape"].raw().flatten().tolist())
    rows, words = matrix(tensors, "weight_packed")
    bits = 32 * words // inputs if inputs > 0 else 0
    if rows != outputs or bits not in _WIDTHS or -(-inputs * bits // 32) != words:
        raise Misfit(f"weight_packed {[rows, words]} does not hold a weight {[outputs, inputs]} in 2, 4 or 8 bits")
    return outputs, inputs


def _check_scales(tensors: Mapping[str, Plain], shape: tuple[int, int]) -> None:
    scale = tensors["weight_scale"].shape
    groups = scale[1] if len(scale) == 2 else 1
    if scale not in {(), (1,), (shape[0],), (shape[0], groups)} or shape[1] % groups:
        raise Misfit(f"weight_scale has shape {list(scale)}, which does not fit a weight {list(shape)}")
    require_shape(tensors, "weight_g_idx", (shape[1],))
    zeros = tensors.get("weight_zero_point")
    if zeros is not None and zeros.dtype == "I8":
        require_shape(tensors, "weight_zero_point", scale)


def _decode(tensors: Mapping[str, Tensor], _settings: Settings, shape: tuple[int, ...]) -> Tensor:
    outputs, inputs = shape
    scale = tensors["weight_scale"].float()
    scale = scale.reshape(-1, 1) if scale.dim() < 2 else scale
    numbers, zeros = _numbers(tensors, outputs, inputs, scale)
    group = _groups(tensors, inputs, scale.shape[1])
    return (numbers - zeros.expand(len(zeros), scale.shape[1])[:, group]) * scale[:, group]


def _numbers(tensors: Mapping[str, Tensor], outputs: int, inputs: int, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The stored numbers and their zero points, (1, 1) or as the scales."""
    import torch

    none = torch.zeros(1, 1)
    if "weight_packed" not in tensors:
        zeros = tensors.get("weight_zero_point")
        return tensors["weight"].float(), none if zeros is None else zeros.float().reshape(scale.shape)
    words = tensors["weight_packed"]
    bits = 32 * words.shape[1] // inputs
    half = 1 << (bits - 1)
    numbers = (unpack(words, bits, inputs) - half).float()
    zeros = tensors.get("weight_zero_point")
    if zeros is None:
        return numbers, none
    if zeros.dtype == torch.int8:
        return numbers, zeros.float().reshape(scale.shape)
    if zeros.shape != (-(-outputs * bits // 32), scale.shape[1]):
        raise Misfit(f"weight_zero_point has shape {list(zeros.shape)}, which does not fit its scales")
    return numbers, (unpack(zeros.T, bits, outputs) - half).T.float()


def _groups(tensors: Mapping[str, Tensor], inputs: int, groups: int) -> Tensor:
    import torch

    if "weight_g_idx" not in tensors or int(tensors["weight_g_idx"].min()) < 0:
        return torch.arange(inputs) // (inputs // groups)
    group = tensors["weight_g_idx"].long()
    if int(group.max()) >= groups:
        raise Misfit(f"weight_g_idx names group {int(group.max())}, and there are {groups}")
    return group


QUANTISATION = Quantisation(
    name="compressed-tensors",
    summary="compressed-tensors: packed whole numbers of 2, 4 or 8 bits, int8, 8-bit floats",
    reference="vLLM's compressed-tensors and llm-compressor",
    methods=frozenset({"compressed-tensors"}),
    required=frozenset({"weight_scale"}),
    optional=frozenset({"weight_shape", "weight_zero_point", "weight_g_idx", "input_scale", "input_zero_point"}),
    marks=frozenset({"weight", "weight_packed"}),
    shape=_shape,
    decode=_decode,
    needs_settings=True,
    why_not=_why_not,
)
