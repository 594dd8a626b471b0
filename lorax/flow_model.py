"""What bases with a diffusion transformer and flow matching have in common, pictures and videos.

A noisy latent is x(σ) = (1 - σ)·picture + σ·noise, and the velocity noise - picture is predicted (Lipman et al., arXiv
2210.02747; Esser et al., arXiv 2403.03206). A probe's timestep t stands for σ = t / 1000.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from lorax.inventories.known import read_config
from lorax.opening import Opening
from lorax.picture_model import PictureModel

States = TypeVar("States")

_TIMESTEPS = 1000
PIXELS, FRAMES = 512, 9
"""Height and width of what is drawn, and how many frames of it: transformers have no size of their own, and this much
shows what an adapter does."""
TOKENS = 512
"""Most tokens of a prompt that T5 is asked to read."""


class FlowModel(PictureModel[States]):
    """A base whose denoiser predicts velocities; scheduler: a FlowMatchEulerDiscreteScheduler with the base's shift.

    pixels: height and width of what is drawn; another number may be set, a multiple of what one token covers.
    """

    transformer: Any
    pixels: int = PIXELS

    @property
    @abstractmethod
    def tokens(self) -> int:
        """Counts the tokens that a latent becomes, by which schedules are shifted."""

    @property
    def prediction(self) -> str:
        """Names what is predicted: the velocity of a flow."""
        return "flow"

    @property
    def signal(self) -> Tensor:
        """Gives the share of the picture in the variance at each timestep, (timesteps,)."""
        sigma = torch.arange(_TIMESTEPS) / _TIMESTEPS
        return (1 - sigma).square() / ((1 - sigma).square() + sigma.square())

    def add_noise(self, latents: Tensor, noise: Tensor, *, timesteps: Tensor) -> Tensor:
        """Returns latents on their straight way to noise, σ = timesteps / 1000."""
        sigma = (timesteps / _TIMESTEPS).view(-1, *[1] * (latents.dim() - 1)).to(latents)
        return (1 - sigma) * latents + sigma * noise

    def sampler(self, steps: int) -> Any:  # noqa: ANN401 - a scheduler of diffusers
        """Returns Euler's method on equal steps of σ, shifted as the base says, by the number of tokens if it does."""
        from diffusers import FlowMatchEulerDiscreteScheduler

        config = self.scheduler.config
        # A single step ends where it begins, which cannot be stretched to end elsewhere.
        ending = config.shift_terminal if steps > 1 else None
        scheduler: Any = FlowMatchEulerDiscreteScheduler.from_config(
            config, stochastic_sampling=False, shift_terminal=ending
        )
        shortest, longest = config.base_image_seq_len, config.max_image_seq_len
        slope = (config.max_shift - config.base_shift) / (longest - shortest)
        shift = config.base_shift + slope * (self.tokens - shortest)
        scheduler.set_timesteps(sigmas=torch.linspace(1.0, 1.0 / steps, steps).tolist(), mu=shift)
        return scheduler


class VideoModel(FlowModel[States]):
    """A base that draws videos, of which three frames are looked at: the first, the middle, the last.

    frames: of a video; another number may be set, one more than a multiple of the frames that a latent one covers.
    """

    pictures: ClassVar[int] = 3
    frames: int = FRAMES
    compression: tuple[int, int]
    """How many frames and how many pixels of a side go into one place of a latent; said by the kind of base."""

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """Channels, frames, height and width of one latent."""
        over_time, over_space = self.compression
        side = self.pixels // over_space
        return int(self.transformer.config.in_channels), (self.frames - 1) // over_time + 1, side, side

    @abstractmethod
    def decode_videos(self, latents: Tensor) -> Tensor:
        """Returns videos (n, channels, frames, h, w), -1 to 1, of clean latents (n, c, f, h, w)."""

    def decode(self, latents: Tensor) -> Tensor:
        """Returns three frames of each video, (3·n, channels, h, w), -1 to 1."""
        videos = self.decode_videos(latents).movedim(2, 1)
        last = videos.shape[1] - 1
        return videos[:, [0, last // 2, last]].flatten(0, 1).float()


def flow_scheduler(opening: Opening) -> Any:  # noqa: ANN401 - a scheduler of diffusers
    """Returns Euler's method with the settings in scheduler/, or with the shift alone of another class of scheduler."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    folder = opening.folder / "scheduler"
    said = read_config(folder / "scheduler_config.json")
    if str(said.get("_class_name", "")).startswith("FlowMatch"):
        return FlowMatchEulerDiscreteScheduler.from_pretrained(folder)
    return FlowMatchEulerDiscreteScheduler(shift=float(str(said.get("flow_shift") or 1.0)))


def flow_refused(folder: Path) -> str:
    """Says why a transformer is not run: it wants more than noise and text, or it is no flow; "" where it is."""
    config = read_config(folder / "transformer" / "config.json")
    taken = config.get("in_channels")
    given = config.get("out_channels") or taken
    if taken != given:
        return f"its transformer takes {taken} channels and gives {given}: it wants more than noise and text"
    scheduler = read_config(folder / "scheduler" / "scheduler_config.json")
    name = str(scheduler.get("_class_name", ""))
    flows = name.startswith("FlowMatch") or scheduler.get("use_flow_sigmas") is True
    return "" if flows else f"its scheduler {name} is none of flow matching"


def read_by_t5(tokenizer: Any, prompts: list[str], *, most: int = TOKENS) -> Any:  # noqa: ANN401 - of transformers
    """Returns tokens and their mask, each (n, length), padded to the most that the base reads."""
    length = min(most, int(tokenizer.model_max_length))
    return tokenizer(
        prompts, padding="max_length", truncation=True, max_length=length, return_attention_mask=True,
        return_tensors="pt",
    )  # fmt: skip
