"""What an encoder wants of pictures: their size, their channels, and how brightness is scaled; all of it in torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lorax.encoder_folder import EncoderFolder
from lorax.errors import Stop

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""What CLIP was trained with (Radford et al., arXiv 2103.00020), and BLIP, CSD and HPSv2 after it."""
_LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey, ITU-R BT.601."""
_MODES = {2: "bilinear", 3: "bicubic"}
"""Kinds of interpolation by the numbers that Pillow, and so configurations, have for them."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """How pictures become an encoder's input.

    side: what the shorter side is resized to, or (height, width) for both; crop: height and width of what is cut from
    the middle, None for all; mean, std: by channel, of brightness from 0 to 1; mode: of interpolation.
    """

    side: int | tuple[int, int]
    crop: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mode: str = "bicubic"

    @classmethod
    def like_clip(cls, side: int) -> Preparation:
        """Gives what CLIP does: the shorter side resized, a square cut out."""
        return cls(side, (side, side), CLIP_MEAN, CLIP_STD)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Returns input (n, channels, height, width) float32 for pictures (n, h, w, 1 or 3) uint8."""
        shown = _of_channels(pixels.permute(0, 3, 1, 2).float(), len(self.mean))
        shown = self._cut(self._resized(shown))
        mean, std = (torch.tensor(each).view(1, -1, 1, 1).to(shown) for each in (self.mean, self.std))
        return (shown / 255 - mean) / std

    def _resized(self, shown: Tensor) -> Tensor:
        height, width = shown.shape[2:]
        if isinstance(self.side, int):
            short = min(height, width)
            wanted = (self.side * height // short, self.side * width // short)
        else:
            wanted = self.side
        if wanted == (height, width):
            return shown
        # Rounded, as in the pictures that encoders were trained on: those were resized as bytes.
        return F.interpolate(shown, wanted, mode=self.mode, antialias=True, align_corners=False).round().clamp(0, 255)

    def _cut(self, shown: Tensor) -> Tensor:
        if self.crop is None:
            return shown
        top, left = ((shown.shape[2 + axis] - self.crop[axis]) // 2 for axis in range(2))
        return shown[:, :, top : top + self.crop[0], left : left + self.crop[1]]


def _of_channels(shown: Tensor, wanted: int) -> Tensor:
    """Returns pictures (n, c, h, w) with the channels that are wanted: grey is repeated, colour weighed into grey."""
    channels = shown.shape[1]
    if channels == wanted:
        return shown
    if channels == 1:
        return shown.expand(-1, wanted, -1, -1)
    if channels == 3 and wanted == 1:
        weights = torch.tensor(_LUMA).view(1, 3, 1, 1).to(shown)
        return (shown * weights).sum(1, keepdim=True).round()
    raise Stop(f"pictures have {channels} channels, and an encoder wants {wanted}; expected are 1 or 3")


def read_preparation(folder: EncoderFolder, default: Preparation) -> Preparation:
    """Returns what preprocessor_config.json of a folder says, the default where there is none.

    Raises Stop for steps that are not taken here.
    """
    said = folder.config("preprocessor_config.json") or folder.config("processor_config.json").get("image_processor")
    if not said:
        return default
    try:
        return _read(said)
    except (KeyError, TypeError, ValueError) as problem:
        raise folder.refusal(
            f"its image processor (preprocessor_config.json) cannot be followed: {type(problem).__name__} {problem}"
        ) from problem


def _read(said: Mapping[str, Any]) -> Preparation:
    if said.get("do_rescale", True) and abs(float(said.get("rescale_factor", 1 / 255)) * 255 - 1) > 1e-3:
        raise ValueError(f"rescale_factor {said['rescale_factor']}, 1/255 is wanted")
    crop = _sides(said["crop_size"]) if said.get("do_center_crop", True) and "crop_size" in said else None
    side = _side(said["size"])
    if crop is not None and max(crop) > (side if isinstance(side, int) else min(side)):
        raise ValueError(f"crop_size {crop} is larger than size {side}")
    return Preparation(side, crop, _numbers(said["image_mean"]), _numbers(said["image_std"]), _MODES[said["resample"]])


def _side(said: int | Mapping[str, int]) -> int | tuple[int, int]:
    if isinstance(said, int):
        return said
    return int(said["shortest_edge"]) if "shortest_edge" in said else _sides(said)


def _sides(said: int | Mapping[str, int]) -> tuple[int, int]:
    return (said, said) if isinstance(said, int) else (int(said["height"]), int(said["width"]))


def _numbers(said: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(number) for number in said)
