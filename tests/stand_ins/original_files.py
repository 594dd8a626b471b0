"""Writes base models as the code of their makers names them: one file, fused weights, other prefixes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from lorax.base_model import BaseModel
from lorax.checkpoint import open_checkpoint
from lorax.inventories.sgm import sgm_names
from lorax.naming import NamedModule
from lorax.weight_file import open_weight_file, write_weight_file

PREFIX = "model.diffusion_model."
LEAVES = ("weight", "bias")


def original_tensors(
    state: Mapping[str, Tensor], modules: Iterable[NamedModule], *, prefix: str = "", norm_leaf: str = "weight"
) -> dict[str, Tensor]:
    """Returns the tensors of one component under the names of `modules`; what no module holds keeps its name.

    state: by diffusers' names; norm_leaf: what the weight of a normalisation without bias is called.
    """
    found: dict[str, Tensor] = {}
    used: set[str] = set()
    for module in modules:
        for leaf in LEAVES:
            names = [f"{part.site.path}.{leaf}" for part in module.parts]
            if not all(name in state for name in names) or used & set(names):
                continue
            used |= set(names)
            pieces = [_piece(state[name], swapped=part.swapped) for name, part in zip(names, module.parts, strict=True)]
            bare = module.shape is None and leaf == "weight" and f"{module.parts[0].site.path}.bias" not in state
            found[f"{prefix}{module.path}.{norm_leaf if bare else leaf}"] = torch.cat(pieces)
    for name in state.keys() - used:
        found[prefix + name] = state[name]
    return {name: tensor.contiguous() for name, tensor in found.items()}


def _piece(tensor: Tensor, *, swapped: bool) -> Tensor:
    return torch.cat(tensor.chunk(2)[::-1]) if swapped else tensor


def openclip_tensors(state: Mapping[str, Tensor], *, prefix: str, extra_layers: int = 0) -> dict[str, Tensor]:
    """Returns the tensors of a CLIP text encoder of transformers as OpenCLIP names them.

    extra_layers: of random numbers behind the last one, for Stable Diffusion 2 does not use OpenCLIP's last layer.
    """
    plain = {name.removeprefix("text_model."): tensor for name, tensor in state.items()}
    found: dict[str, Tensor] = {
        "positional_embedding": plain["embeddings.position_embedding.weight"],
        "token_embedding.weight": plain["embeddings.token_embedding.weight"],
        "ln_final.weight": plain["final_layer_norm.weight"],
        "ln_final.bias": plain["final_layer_norm.bias"],
        "logit_scale": torch.tensor(1.0),
    }
    if "text_projection.weight" in plain:
        found["text_projection"] = plain["text_projection.weight"].T.contiguous()
    layers = 1 + max(int(name.split(".")[2]) for name in plain if name.startswith("encoder.layers."))
    for layer in range(layers):
        found |= _openclip_layer(plain, f"encoder.layers.{layer}", f"transformer.resblocks.{layer}")
    for layer in range(layers, layers + extra_layers):
        last = _openclip_layer(plain, f"encoder.layers.{layers - 1}", f"transformer.resblocks.{layer}")
        found |= {name: torch.randn_like(tensor) for name, tensor in last.items()}
    return {prefix + name: tensor for name, tensor in found.items()}


def _openclip_layer(plain: Mapping[str, Tensor], here: str, there: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for leaf in LEAVES:
        parts = [plain[f"{here}.self_attn.{part}_proj.{leaf}"] for part in "qkv"]
        found[f"{there}.attn.in_proj_{leaf}"] = torch.cat(parts)
        for name, other in {
            "self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2",
            "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
        }.items():  # fmt: skip
            found[f"{there}.{other}.{leaf}"] = plain[f"{here}.{name}.{leaf}"]
    return found


def tensors_of(path: Path) -> dict[str, Tensor]:
    """Returns all tensors of a file."""
    file = open_weight_file(path)
    return {name: file.read(name) for name in file.tensors}


def unet_names(base: BaseModel) -> list[NamedModule]:
    """Returns the modules of a U-Net under CompVis' names."""
    return [module for module in sgm_names(base) if module.component == "unet"]


def compvis_file(folder: Path, path: Path) -> Path:
    """Writes a folder of the shape of Stable Diffusion 1 as one file, with what such files hold besides."""
    base = open_checkpoint(folder, name="folder").base
    unet = tensors_of(folder / "unet" / "diffusion_pytorch_model.safetensors")
    text = tensors_of(folder / "text_encoder" / "model.safetensors")
    tensors = original_tensors(unet, unet_names(base), prefix=PREFIX)
    for name, tensor in text.items():
        tensors[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = tensor
    tensors |= {
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(12)[None],
        "first_stage_model.encoder.conv_in.weight": torch.randn(4, 3, 3, 3),
        "model_ema.diffusion_modelinput_blocks00weight": torch.randn(4),
        "betas": torch.rand(10),
        "v_pred": torch.ones(1),
        "alphas_cumprod": torch.rand(10),
    }
    write_weight_file(path, tensors)
    return path


def expect_same(one: Path, other: Path) -> None:
    """Asserts that two places hold one base: sites, weights, fingerprint."""
    first, second = open_checkpoint(one, name="first"), open_checkpoint(other, name="second")
    assert first.base.family == second.base.family
    assert first.base.sites == second.base.sites
    assert first.base.tables == second.base.tables
    assert first.base.vectors == second.base.vectors
    assert first.base.parameters == second.base.parameters
    for site in (*first.base.sites, *first.base.tables):
        assert torch.equal(first.weight(site), second.weight(site)), site
    assert first.base.fingerprint == second.base.fingerprint
