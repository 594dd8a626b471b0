"""A loaded base that can be run on a probe, patched with an adapter, sampled from and listened to.

What the kinds of models share is here; one file per kind says how it is run: `diffusion_model`, `language_model`.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from lorax.adapter import Adapter, LowRank, Site, Update
from lorax.geometry import Geometry
from lorax.probe import Probe, ProbeSettings

Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]


class RunningModel(ABC):
    """A base on one device, float32, whose weights are never trained here."""

    kind: ClassVar[str]
    geometry: ClassVar[Geometry]

    def __init__(self, components: Mapping[str, nn.Module]) -> None:
        self._components = dict(components)
        self._modules = {name: dict(component.named_modules()) for name, component in components.items()}
        self._first = next(parameter for component in components.values() for parameter in component.parameters())

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self._first.device

    @abstractmethod
    def run(self, probe: Probe, rows: slice) -> Tensor:
        """Returns the outputs (n, features), float32, for some rows of a probe; gradients flow through it.

        Output rows are as many as `probe.group` has entries for these rows of the probe.
        """

    @abstractmethod
    def samples(
        self, prompts: Sequence[str], *, settings: ProbeSettings, seed: int, rows: slice = slice(None)
    ) -> Tensor:
        """Returns what the model draws for prompts[rows], a sample a row; the others' chance is left to the others."""

    @abstractmethod
    def given(self, settings: ProbeSettings) -> Tensor | None:
        """Returns the neutral samples that the settings bring with them, shaped as `samples`; None without any."""

    @abstractmethod
    def look_at(self, samples: Tensor, *, prompts: Sequence[str], settings: ProbeSettings) -> Probe:
        """Returns the probe that shows samples, drawn for these prompts, to a model."""

    def shown_anew(self, settings: ProbeSettings, *, generator: torch.Generator) -> ProbeSettings:
        """Returns settings by which `look_at` shows the same samples in another way; the same where there is one."""
        del generator
        return settings

    @abstractmethod
    def pulls(
        self, output: Tensor, probe: Probe, rows: slice, *, count: int, generator: torch.Generator
    ) -> list[Tensor]:
        """Returns `count` directions of change, each like `output` (n, features), whose gradients tell about a site.

        The objective is sum(pull * output), for the same pulls in both bases of a pair.
        """

    def rows_with_gradients(self, wanted: int) -> int:
        """Returns how many rows to run at once where gradients are kept, of so many that are wanted; at least one."""
        return wanted

    @abstractmethod
    def require_comparable(self, other: RunningModel) -> None:
        """Raises Stop where the outputs of the two models do not mean the same things."""

    def module(self, site: Site) -> nn.Module | None:
        """Returns the module whose weight a site names, or None; with or without CLIP's `text_model.` level."""
        found = self._modules.get(site.component, {})
        return found.get(site.path) or found.get(site.path.removeprefix("text_model."))

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Asks for no gradients of the weights for the length of a `with` block: what is trained lies beside them."""
        asked = [each for module in self._components.values() for each in module.parameters() if each.requires_grad]
        try:
            for parameter in asked:
                parameter.requires_grad = False
            yield
        finally:
            for parameter in asked:
                parameter.requires_grad = True

    @contextlib.contextmanager
    def patched(self, adapter: Adapter | None) -> Iterator[None]:
        """Adds an adapter's updates to the modules' outputs for the length of a `with` block; weights stay untouched.

        Raises KeyError where a site of the adapter is no module of this model: an update must never be lost in silence.
        """
        if adapter is None:
            yield
            return
        hooks = {site: self.hook_of(site, update) for site, update in adapter.updates.items()}
        with self.listening(hooks), self._shifted(adapter.vectors):
            yield

    def hook_of(self, site: Site, update: Update) -> Hook:
        """Returns what adds an update to the output of its site's module."""
        if isinstance(update, LowRank):
            return _adding(update, self.device)
        module = self.module(site)
        if module is None:
            raise KeyError(f"{site} is no module of this model")
        return _adding_dense(update.dense(cast("Tensor", module.weight).detach()))

    @contextlib.contextmanager
    def _shifted(self, vectors: Mapping[Site, Tensor]) -> Iterator[None]:
        """Adds to biases and norms for the length of a `with` block, and gives back the very numbers they had."""
        kept: list[tuple[Tensor, Tensor]] = []
        try:
            for site, vector in vectors.items():
                owner, _, leaf = site.path.rpartition(".")
                module = self.module(Site(site.component, owner))
                parameter = getattr(module, leaf, None)
                if parameter is None:
                    raise KeyError(f"{site} is no parameter of this model")
                kept.append((parameter.data, parameter.data.clone()))
                parameter.data += vector.to(parameter.data)
            yield
        finally:
            for data, before in reversed(kept):
                data.copy_(before)

    @contextlib.contextmanager
    def listening(self, hooks: Mapping[Site, Hook]) -> Iterator[None]:
        """Calls each hook(module, inputs, output) when its site's module has run, for the length of a `with` block."""
        with contextlib.ExitStack() as stack:
            for site, hook in hooks.items():
                module = self.module(site)
                if module is None:
                    raise KeyError(f"{site} is no module of this model")
                stack.callback(module.register_forward_hook(hook).remove)
            yield


def _adding(update: LowRank, device: torch.device) -> Hook:
    """Returns a hook that adds scale·up·down·x to a module's output, factored; gradients reach both factors."""
    up = (update.up.float() * update.scale).to(device)
    down = update.down.float().to(device)

    def linear(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + (inputs[0] @ down.T) @ up.T

    def convolution(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        base = cast("nn.Conv2d", module)
        kernel = down.view(down.shape[0], -1, *base.kernel_size)
        thin = nn.functional.conv2d(inputs[0], kernel, stride=base.stride, padding=base.padding, dilation=base.dilation)
        return output + nn.functional.conv2d(thin, up[:, :, None, None])

    return linear if update.kernel is None else convolution


def _adding_dense(change: Tensor) -> Hook:
    """Returns a hook that adds change·x to a module's output."""

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if change.dim() == 2:
            return output + nn.functional.linear(inputs[0], change)
        base = cast("nn.Conv2d", module)
        moved = nn.functional.conv2d(
            inputs[0], change, stride=base.stride, padding=base.padding, dilation=base.dilation
        )
        return output + moved

    return add
