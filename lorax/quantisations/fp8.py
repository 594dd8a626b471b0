"""8-bit floating-point numbers with a scale: of the whole weight, of each output, or of blocks of 128 x 128.

transformers calls the scale weight_scale_inv (blocks, DeepSeek) or weight_scale (FBGEMM, ModelOpt), ComfyUI
scale_weight or weight_scale; all of them multiply. Scales of activations do not change the weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lorax.quantisation import Misfit, Quantisation, Settings, require_type

if TYPE_CHECKING:
    from torch import Tensor

    from lorax.stored import Plain

_SCALES = frozenset({"weight_scale", "weight_scale_inv", "scale_weight"})
_BLOCK = 128


def _blocks(settings: Settings) -> tuple[int, int]:
    found = settings.get("weight_block_size") or [_BLOCK, _BLOCK]
    if not isinstance(found, list) or len(found) != 2 or not all(type(size) is int and size > 0 for size in found):
        raise Misfit(f"the setting 'weight_block_size' is {str(found)[:80]!r}")
    return found[0], found[1]


def _shape(tensors: Mapping[str, Plain], settings: Settings) -> tuple[int, ...]:
    require_type(tensors, "weight", "F8_E4M3", "F8_E5M2")
    scales = _SCALES & tensors.keys()
    if len(scales) != 1:
        raise Misfit(f"it has the scales {', '.join(sorted(scales))}")
    shape, scale = tensors["weight"].shape, tensors[next(iter(scales))].shape
    whole, by_output = scale in {(), (1,), (1, 1)}, scale in {shape[:1], (shape[0], 1)}
    if not (whole or by_output):
        high, wide = _blocks(settings)
        if len(shape) != 2 or scale != (-(-shape[0] // high), -(-shape[1] // wide)):
            raise Misfit(f"weight {list(shape)} and scale {list(scale)} do not fit each other")
    return shape


def _decode(tensors: Mapping[str, Tensor], settings: Settings, shape: tuple[int, ...]) -> Tensor:
    weight = tensors["weight"].float()
    scale = tensors[next(iter(_SCALES & tensors.keys()))].float()
    if scale.numel() == 1:
        return weight * scale.reshape(())
    if scale.shape in {shape[:1], (shape[0], 1)}:
        return weight * scale.reshape(-1, *[1] * (len(shape) - 1))
    high, wide = _blocks(settings)
    return weight * scale.repeat_interleave(high, 0)[: shape[0]].repeat_interleave(wide, 1)[:, : shape[1]]


QUANTISATION = Quantisation(
    name="fp8",
    summary="8-bit floating-point numbers with a scale of the weight, of each output or of blocks",
    reference="transformers (fp8, fbgemm_fp8), ModelOpt, ComfyUI",
    methods=frozenset({"fp8", "fbgemm_fp8", "modelopt"}),
    required=frozenset({"weight"}),
    optional=frozenset({"input_scale", "scale_input", "activation_scale", "input_scale_ub", "comfy_quant"}),
    marks=_SCALES,
    heeds=frozenset({"weight_block_size"}),
    shape=_shape,
    decode=_decode,
)
