"""What bases with a U-Net have in common: noise is predicted on a schedule of so many timesteps, DDIM draws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from lorax.inventories.known import read_config
from lorax.opening import Opening
from lorax.picture_model import PictureModel

States = TypeVar("States")

OTHER_NOISE = ("EDM", "FlowMatch")
"""How the names of schedulers begin whose noise is not that of a schedule of shares of signal."""


class UNetModel(PictureModel[States]):
    """A base whose denoiser is a UNet2DConditionModel; scheduler: a DDIMScheduler with the base's own schedule."""

    unet: Any

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one latent."""
        size = int(self.unet.config.sample_size)
        return int(self.unet.config.in_channels), size, size

    @property
    def prediction(self) -> str:
        """Names what is predicted: epsilon, v_prediction, sample."""
        return str(self.scheduler.config.prediction_type)

    @property
    def signal(self) -> Tensor:
        """Gives the cumulated share of signal of the schedule, (timesteps,)."""
        shares: Tensor = self.scheduler.alphas_cumprod
        return shares

    def add_noise(self, latents: Tensor, noise: Tensor, *, timesteps: Tensor) -> Tensor:
        """Returns latents noised to the given timesteps (n,), by the model's own schedule."""
        noised: Tensor = self.scheduler.add_noise(latents, noise, timesteps)
        return noised

    def sampler(self, steps: int) -> Any:  # noqa: ANN401 - a scheduler of diffusers
        """Returns DDIM on the base's schedule (Song et al., arXiv 2010.02502, eta 0)."""
        from diffusers import DDIMScheduler

        scheduler: Any = DDIMScheduler.from_config(self.scheduler.config)
        scheduler.set_timesteps(steps)
        return scheduler

    def decode(self, latents: Tensor) -> Tensor:
        """Returns pictures (n, channels, h, w), -1 to 1, through the VAE where the base has one."""
        if self.vae is None:
            return latents
        config = self.vae.config
        scaled = latents / config.scaling_factor
        if getattr(config, "latents_mean", None) and getattr(config, "latents_std", None):
            mean, std = (
                torch.tensor(each, device=latents.device).view(1, -1, 1, 1)
                for each in (config.latents_mean, config.latents_std)
            )
            scaled = scaled * std + mean
        pictures: Tensor = self.vae.decode(scaled).sample
        return pictures.float()


def unet_scheduler(opening: Opening) -> Any:  # noqa: ANN401 - a scheduler of diffusers
    """Returns DDIM with the schedule in scheduler/, of whatever class that is."""
    from diffusers import DDIMScheduler

    said = json.loads((opening.folder / "scheduler" / "scheduler_config.json").read_bytes())
    # Latents have no bounds. Schedulers that never clip do not say so, and DDIM would by default.
    unsaid: dict[str, Any] = {} if "clip_sample" in said else {"clip_sample": False}
    return DDIMScheduler.from_pretrained(opening.folder / "scheduler", **unsaid)


def unet_refused(folder: Path) -> str:
    """Says why a U-Net of this folder is not run: it wants more than noise and text, or other noise; "" where it is."""
    unet = read_config(folder / "unet" / "config.json")
    taken, given = unet.get("in_channels", 4), unet.get("out_channels", 4)
    if taken != given:
        return f"its U-Net takes {taken} channels and gives {given}: it wants more than noise and text"
    scheduler = str(read_config(folder / "scheduler" / "scheduler_config.json").get("_class_name", ""))
    return f"its scheduler {scheduler} has another kind of noise" if scheduler.startswith(OTHER_NOISE) else ""
