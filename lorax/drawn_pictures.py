"""Pictures that each model draws for the same prompts from the same noise, once for all encoders that look at them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lorax.adapter import Adapter
from lorax.encoder import Encoder
from lorax.picture_model import PictureModel
from lorax.probe import ProbeSettings, slices
from lorax.running_model import RunningModel
from lorax.view import Look, Scene

_OWN_CHANCE = 70_001
"""Added to the probe's seed: these are other pictures than those that the probe shows under noise."""
_VALUES = 8 * 4 * 64 * 64
"""Most numbers in the latents that are drawn at once: eight pictures of 512 x 512 pixels."""

Kept = WeakKeyDictionary[RunningModel, dict[int, tuple[Adapter | None, Tensor]]]
"""By model and adapter, with the adapter itself, since its number alone would not keep it."""


class DrawnPictures:
    """Pictures (n, h, w, channels) uint8 of models that are asked for, and what encoders see in them."""

    def __init__(self, prompts: Sequence[str], settings: ProbeSettings) -> None:
        self._prompts, self._settings = tuple(prompts), settings
        self._drawn: Kept = WeakKeyDictionary()
        self._seen: WeakKeyDictionary[Encoder, Kept] = WeakKeyDictionary()

    def prompts(self, model: PictureModel[Any]) -> tuple[str, ...]:
        """Returns the prompt of each picture; a latent may become several of them."""
        return tuple(prompt for prompt in self._prompts for _ in range(model.pictures))

    def pixels(self, model: RunningModel, adapter: Adapter | None) -> Tensor:
        """Returns the pictures of a model with an adapter."""
        return _once(self._drawn, model, adapter, lambda: self._draw(model, adapter))

    def points(self, encoder: Encoder, model: RunningModel, adapter: Adapter | None) -> Tensor:
        """Returns what an encoder sees in them, (n, d)."""
        kept = self._seen.setdefault(encoder, WeakKeyDictionary())
        return _once(kept, model, adapter, lambda: encoder.pictures(self.pixels(model, adapter)))

    @torch.no_grad()
    def _draw(self, model: RunningModel, adapter: Adapter | None) -> Tensor:
        if not isinstance(model, PictureModel):
            raise TypeError(f"a {model.kind} model draws no pictures")  # views ask before they look
        size = max(1, _VALUES // torch.Size(model.latent_shape).numel())
        seed = self._settings.seed + _OWN_CHANCE
        drawn = []
        with model.patched(adapter):
            for rows in slices(len(self._prompts), size):
                latents = model.samples(self._prompts, settings=self._settings, seed=seed, rows=rows)
                drawn.append(model.to_images(latents))
        return torch.cat(drawn)


def _once(kept: Kept, model: RunningModel, adapter: Adapter | None, make: Callable[[], Tensor]) -> Tensor:
    own = kept.setdefault(model, {})
    if id(adapter) not in own:
        own[id(adapter)] = (adapter, make())
    return own[id(adapter)][1]


class PictureLook(Look):
    """What one encoder sees in the pictures of each model; rows are pictures, those of one latent a group.

    see: features (n, f) of a model with an adapter; given: by name, tensors (n, ...) that scorers get besides.
    """

    def __init__(
        self,
        model: PictureModel[Any],
        count: int,
        see: Callable[[RunningModel, Adapter | None], Tensor],
        given: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.group = torch.arange(count).repeat_interleave(model.pictures)
        self._see, self._given = see, given or {}

    def batches(self) -> Sequence[slice]:
        """Returns one slice: points are small, and pictures are drawn a few at a time."""
        return [slice(0, len(self.group))]

    def see(self, model: RunningModel, adapter: Adapter | None, rows: slice) -> Tensor:
        """Returns the features of some pictures."""
        return self._see(model, adapter)[rows]

    def given(self, rows: slice) -> Mapping[str, Tensor]:
        """Returns what does not depend on who draws."""
        return {name: tensor[rows] for name, tensor in self._given.items()}


Opened = Callable[[Encoder, DrawnPictures, PictureModel[Any]], PictureLook | None]


def looks(scene: Scene, view: str, open_one: Opened) -> dict[str, PictureLook]:
    """Returns a look for each encoder that `open_one` has one for, named `view:encoder`.

    None for models that draw no pictures, and where no pictures are wanted.
    """
    model, count = scene.source, scene.settings.pictures
    if not scene.encoders or not count or not isinstance(model, PictureModel):
        return {}
    drawn = _pictures_of(scene)
    found = {name: open_one(encoder, drawn, model) for name, encoder in sorted(scene.encoders.items())}
    return {f"{view}:{name}": look for name, look in found.items() if look is not None}


def point_looks(scene: Scene, view: str, *, asks: str) -> dict[str, PictureLook]:
    """Returns looks at the points of every encoder that asks this."""
    count = scene.settings.pictures

    def open_one(encoder: Encoder, drawn: DrawnPictures, model: PictureModel[Any]) -> PictureLook | None:
        if encoder.asks != asks:
            return None
        return PictureLook(model, count, lambda model, adapter: drawn.points(encoder, model, adapter))

    return looks(scene, view, open_one)


class _Latest:
    """What was drawn last for each source model, so that the views of a scene share it; it goes with the model."""

    def __init__(self) -> None:
        self._kept: WeakKeyDictionary[RunningModel, tuple[Adapter, object, DrawnPictures]] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def of(self, scene: Scene) -> DrawnPictures:
        words = scene.words or ("",)
        prompts = tuple(words[number % len(words)] for number in range(scene.settings.pictures))
        key = (prompts, scene.probe)
        with self._lock:
            adapter, known, drawn = self._kept.get(scene.source, (None, None, None))
            if drawn is None or adapter is not scene.adapter or known != key:
                drawn = DrawnPictures(prompts, scene.probe)
                self._kept[scene.source] = (scene.adapter, key, drawn)
            return drawn


_pictures_of = _Latest().of
