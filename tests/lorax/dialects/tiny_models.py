"""Tiny models of real classes, and what an adapter of the real libraries does to their weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lorax.adapter import Adapter, Site
from lorax.base_model import BaseModel
from lorax.inventories.known import known_base
from lorax.inventory import Parameter
from lorax.read import AdapterFiles, read_adapter


def base_of(family: str, components: Mapping[str, nn.Module], *, name: str = "tiny") -> BaseModel:
    """Returns the base that these models are, in the canonical names of a family."""
    return known_base(
        name,
        family=family,
        labels=(f"examples/{name}",),
        components={component: _parameters(model, component) for component, model in components.items()},
    )


def _parameters(model: nn.Module, component: str) -> Iterable[Parameter]:
    tables = {f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.Embedding)}
    for path, tensor in model.named_parameters():
        yield Parameter(canonical(component, path), tuple(tensor.shape), is_table=path in tables)


def canonical(component: str, path: str) -> str:
    """Returns the canonical path of a module or parameter: CLIP's with the level that transformers has removed."""
    bare = component.startswith("text_encoder") and path.startswith(("encoder.layers", "embeddings.", "final_layer"))
    return f"text_model.{path}" if bare else path


def nudge(parameters: Iterable[tuple[str, nn.Parameter]], *, size: float = 0.05) -> None:
    """Moves every parameter that is trained, as training would: no factor stays zero."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for _, parameter in parameters:
            if parameter.requires_grad:
                parameter.add_(size * torch.randn(parameter.shape, generator=generator))


def train_one_step(model: nn.Module, loss: Tensor) -> None:
    """Takes a step of gradient descent, and a nudge for factors that a single step leaves alone."""
    optimiser = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    nudge(model.named_parameters())


def weights_of(component: str, state: Mapping[str, Tensor]) -> dict[Site, Tensor]:
    """Returns the weights of a model by site."""
    return {
        Site(component, canonical(component, name.removesuffix(".weight"))): tensor.detach().clone()
        for name, tensor in state.items()
        if name.endswith(".weight")
    }


def read(folder: Path, base: BaseModel, *, name: str = "adapter_model.safetensors") -> Adapter:
    """Reads the adapter in a folder, with the configuration beside it if there is one."""
    config = folder / "adapter_config.json"
    return read_adapter(AdapterFiles(folder / name, config if config.is_file() else None), candidates=[base])


def layer_changes(model: nn.Module, component: str) -> dict[Site, Tensor]:
    """Returns what each layer that peft injected adds to its weight, by its own account."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found: dict[Site, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer) and module.active_adapters:
            layer: Any = module
            (adapter,) = layer.active_adapters
            path = canonical(component, name.removeprefix("base_model.model."))
            found[Site(component, path)] = layer.get_delta_weight(adapter).detach()
    return found


def assert_same_changes(
    adapter: Adapter, changes: Mapping[Site, Tensor], weights: Mapping[Site, Tensor] | None = None
) -> None:
    """Asserts that an adapter changes these sites and no others, by these amounts up to rounding of float32."""
    assert changes
    assert adapter.updates.keys() == changes.keys()
    for site, update in adapter.updates.items():
        weight = weights[site] if weights is not None and update.needs_base else None
        found, wanted = update.dense(weight), changes[site]
        assert float(wanted.norm()) > 0, site
        assert float((found - wanted).norm() / wanted.norm()) < 1e-5, site
