"""Whether two diffusion models see the same pictures: equal latents, equal noise, and the same thing predicted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor

_SAME_WEIGHTS = 1e-2
"""Relative difference of two encoders up to which they are one, saved in different element types."""


_SCALING = ("latent_channels", "z_dim", "scaling_factor", "shift_factor", "latents_mean", "latents_std")
"""Settings of VAEs that say how what they encode becomes a latent."""


class Autoencoder(Protocol):
    """Is a VAE of diffusers, as far as it is looked at here."""

    config: Any

    def named_parameters(self) -> Iterable[tuple[str, Tensor]]:
        """Gives every weight by its name."""
        ...


class Parts(Protocol):
    """Is what tells which pictures a model sees; vae is None where pictures are not latents."""

    vae: Autoencoder | None

    @property
    def prediction(self) -> str:
        """Names what is predicted."""
        ...

    @property
    def signal(self) -> Tensor:
        """Gives the share of the picture in a noisy one at each timestep."""
        ...


def difference(first: Parts, second: Parts) -> str:
    """Says why the outputs of two models, given by their parts, do not compare; "" if they do.

    Decoders of latents may differ: they have no part in what a denoiser sees.
    """
    return _of_predictions(first, second) or _of_noise(first, second) or _of_encoders(first.vae, second.vae)


def _of_predictions(first: Parts, second: Parts) -> str:
    kinds = [model.prediction for model in (first, second)]
    return "" if kinds[0] == kinds[1] else f"they predict different things ({kinds[0]} and {kinds[1]})"


def _of_noise(first: Parts, second: Parts) -> str:
    shares = [model.signal for model in (first, second)]
    same = len(shares[0]) == len(shares[1]) and torch.allclose(shares[0].cpu(), shares[1].cpu(), atol=1e-3)
    return "" if same else "they were trained with different schedules of noise"


def _of_encoders(first: Autoencoder | None, second: Autoencoder | None) -> str:
    if first is None and second is None:
        return ""
    if first is None or second is None:
        return "only one of them has a VAE (folder vae/), so nothing says that they see the same latents"
    for name in _SCALING:
        said = [getattr(vae.config, name, None) for vae in (first, second)]
        if said[0] != said[1]:
            return f"their VAEs scale latents differently ({name} {said[0]} and {said[1]})"
    weights = [_encoder(vae) for vae in (first, second)]
    shapes = [{name: weight.shape for name, weight in found.items()} for found in weights]
    if shapes[0] != shapes[1]:
        return "their VAEs are built differently"
    off = max(
        float((found - weights[1][name].to(found)).norm() / found.norm().clamp_min(1e-12))
        for name, found in weights[0].items()
    )
    return "" if off < _SAME_WEIGHTS else f"their VAEs encode pictures differently (weights are {off:.0%} apart)"


def _encoder(vae: Autoencoder) -> dict[str, Tensor]:
    """The weights that decide what a latent means."""
    return {
        name: weight.detach().float()
        for name, weight in vae.named_parameters()
        if name.startswith(("encoder.", "quant_conv."))
    }
