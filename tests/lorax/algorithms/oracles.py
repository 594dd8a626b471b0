"""What LyCORIS and peft themselves make of their modules: the change of a weight, and the tensors of a file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lorax.adapter import SiteShape, Update
from lorax.algorithm import Algorithm
from lorax.algorithms import ALGORITHMS
from lorax.safe_header import ReadLimits, TensorEntry
from lorax.weight_file import element_type

LYCORIS_ROLES = {
    "lora_up.weight": "up", "lora_down.weight": "down", "lora_mid.weight": "mid", "alpha": "alpha",
    "dora_scale": "magnitude", "weight": "ia3", "on_input": "on_input", "diff": "diff", "diff_b": "bias_diff",
    "oft_blocks": "oft_blocks", "rescale": "rescale",
    "a1.weight": "a1", "a2.weight": "a2", "b1.weight": "b1", "b2.weight": "b2", "bm.weight": "bm",
    "q_layer.weight": "q_layer", "p_layer.weight": "p_layer", "lambda_layer": "lambda_layer",
    **{name: name for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")},
    **{f"lokr_{name}": f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
}  # fmt: skip
"""LyCORIS's names in a file, after the module's, and the roles they are."""

PEFT_ROLES = {
    "lora_A.weight": "down", "lora_B.weight": "up", "lora_embedding_A": "embedding_down",
    "lora_embedding_B": "embedding_up", "lora_magnitude_vector": "magnitude_out", "ia3_l": "ia3_l",
    "oft_R.weight": "oft_r", "boft_R": "boft_r", "boft_s": "boft_s",
    **{name: name for name in LYCORIS_ROLES if name.startswith(("hada_", "lokr_"))},
}  # fmt: skip
"""peft's names in a file, after the module's, and the roles they are."""

LINEAR, CONV1, CONV3 = SiteShape(24, 20), SiteShape(24, 20, (1, 1)), SiteShape(24, 20, (3, 3))


def layer_of(shape: SiteShape, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Makes a layer without bias and with random weights."""
    torch.manual_seed(0)
    kernel = shape.kernel
    if kernel is None:
        return nn.Linear(shape.in_features, shape.out_features, bias=False).to(dtype)
    kind = nn.Conv2d if len(kernel) == 2 else nn.Conv3d
    return kind(shape.in_features, shape.out_features, kernel, bias=False).to(dtype)  # type: ignore[arg-type]


def weight_behind(module: Any, shape: SiteShape, dtype: torch.dtype) -> Tensor:
    """Gives the weight that a module without bias applies, from its outputs for unit inputs."""
    with torch.no_grad():
        units = torch.eye(shape.columns, dtype=dtype)
        if shape.kernel is None:
            return module(units).mT
        outputs = module(units.reshape(-1, shape.in_features, *shape.kernel))
    return outputs.reshape(shape.columns, -1).mT.reshape(shape.weight_shape)


def randomise(module: nn.Module, *, size: float = 0.3) -> None:
    """Gives every parameter random values, so that no factor is zero."""
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point() and parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, dtype=torch.float64) * size + 0.1)


@dataclass(frozen=True)
class Told:
    """What an oracle says: base weight, the change of it, and the tensors of its file by name."""

    weight: Tensor
    change: Tensor
    tensors: Mapping[str, Tensor]


def told_by_lycoris(kind: Any, shape: SiteShape, *, dtype: torch.dtype = torch.float64, **options: Any) -> Told:
    """Builds a module of LyCORIS on a layer, randomises it, and tells what it does and writes.

    Outputs are asked, for get_diff_weight of LoHa and LoKr (4.1.3) multiplies by the scale twice.
    """
    layer = layer_of(shape, dtype)
    weight = layer.weight.detach().clone()
    module = kind("oracle", layer, 1.0, **options).to(dtype).eval()
    if hasattr(module, "is_diff"):
        module.apply_to()  # a whole change is one only once it is in the place of its layer
    randomise(module)
    tensors = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    return Told(weight, weight_behind(module.forward, shape, dtype) - weight, tensors)


def told_by_peft(config: Any, shape: SiteShape, *, dtype: torch.dtype = torch.float64) -> Told:
    """Builds peft's model around one layer called `layer`, randomises it, and tells what it does and writes."""
    from peft import get_peft_model, get_peft_model_state_dict

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer_of(shape, dtype)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

    inner = One()
    weight = inner.layer.weight.detach().clone()
    model = get_peft_model(inner, config).to(dtype).eval()
    randomise(model)
    prefix = "base_model.model.layer."
    tensors = {k.removeprefix(prefix): v.detach().clone() for k, v in get_peft_model_state_dict(model).items()}
    merged = model.merge_and_unload()
    return Told(weight, merged.layer.weight.detach() - weight, tensors)


def by_role(tensors: Mapping[str, Tensor], roles: Mapping[str, str]) -> dict[str, Tensor]:
    """Renames tensors to roles. Raises KeyError for a name that the table does not have."""
    return {roles[name]: tensor for name, tensor in tensors.items()}


def entries_of(tensors: Mapping[str, Tensor]) -> dict[str, TensorEntry]:
    """Describes tensors as the header of a file would."""
    return {role: TensorEntry(role, element_type(t.dtype), tuple(t.shape), 0, 0) for role, t in tensors.items()}


def algorithm_of(roles: frozenset[str]) -> Algorithm:
    """Gives the one algorithm that claims a module."""
    [found] = [algorithm for algorithm in ALGORITHMS.values() if algorithm.claims_roles(roles)]
    return found


def read_module(tensors: Mapping[str, Tensor], shape: SiteShape, *, stabilised: bool = False) -> Update:
    """Reads a module as the reader does: by roles, by shapes, alpha over rank."""
    algorithm = algorithm_of(frozenset(tensors))
    assert algorithm.layout is not None
    assert algorithm.decode is not None
    layout = algorithm.layout(entries_of(tensors), ReadLimits(rank_to_width=4))
    assert layout.fits(shape)
    scale = 1.0
    if "alpha" in tensors and layout.rank:
        scale = float(tensors["alpha"]) / (math.sqrt(layout.rank) if stabilised else layout.rank)
    return algorithm.decode(tensors, scale, shape)
