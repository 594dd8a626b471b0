"""Noise in, noise predicted: the training loss, the held-out loss and the sampler that all parts share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from examples.digits import styles
from examples.digits.models import Base, make_scheduler

GUIDANCE = 2.0
STEPS = 16
HELD_OUT_TIMESTEPS = (50, 150, 300, 450, 600, 750, 900)


def signal_shares() -> Tensor:
    """Cumulative alphas (1000,) of the noise schedule."""
    shares: Tensor = make_scheduler().alphas_cumprod
    return shares


def add_noise(images: Tensor, noise: Tensor, timesteps: Tensor, shares: Tensor) -> Tensor:
    """Images (n, 1, 16, 16) at their timesteps (n,)."""
    share = shares[timesteps].view(-1, 1, 1, 1)
    return share.sqrt() * images + (1 - share).sqrt() * noise


def predict(base: Base, noisy: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
    """The noise (n, 1, 16, 16) that a base sees in noisy images under captions (n, 16)."""
    context = base.text_encoder(tokens).last_hidden_state
    noise: Tensor = base.unet(noisy, timesteps, context).sample
    return noise


def loss(base: Base, images: Tensor, tokens: Tensor, shares: Tensor, generator: torch.Generator) -> Tensor:
    """Mean squared error on one batch, one random timestep per image. Returns a scalar."""
    noise = torch.randn(images.shape, generator=generator)
    timesteps = torch.randint(len(shares), (len(images),), generator=generator)
    return F.mse_loss(predict(base, add_noise(images, noise, timesteps, shares), timesteps, tokens), noise)


@torch.no_grad()
def held_out_loss(base: Base, style: str | None, count: int = 120) -> float:
    """Mean squared error on held-out images of a style, at fixed timesteps, noises and captions.

    Each image meets each of seven timesteps with its own noise, so that two calls with different weights differ only
    by the weights.
    """
    images, labels = styles.images(style, "test")
    images, labels = images[:count], labels[:count]
    tokens = base.tokens(styles.captions(style, labels, seed=7))
    shares, total = signal_shares(), 0.0
    for timestep in HELD_OUT_TIMESTEPS:
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(timestep))
        timesteps = torch.full((len(images),), timestep)
        noisy = add_noise(images, noise, timesteps, shares)
        total += F.mse_loss(predict(base, noisy, timesteps, tokens), noise).item()
    return total / len(HELD_OUT_TIMESTEPS)


@torch.no_grad()
def sample(base: Base, captions: Sequence[str], seed: int, steps: int = STEPS, guidance: float = GUIDANCE) -> Tensor:
    """Images (n, 1, 16, 16) painted for captions by DDIM with classifier-free guidance; the seed fixes the start."""
    scheduler = make_scheduler()
    scheduler.set_timesteps(steps)
    images = torch.randn((len(captions), 1, styles.SIZE, styles.SIZE), generator=torch.Generator().manual_seed(seed))
    tokens = base.tokens([""] * len(captions) + list(captions))
    context = base.text_encoder(tokens).last_hidden_state
    for timestep in scheduler.timesteps:
        plain, guided = base.unet(torch.cat([images, images]), timestep, context).sample.chunk(2)
        images = scheduler.step(plain + guidance * (guided - plain), timestep, images).prev_sample
    return images.clamp(-1, 1)
