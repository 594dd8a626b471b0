"""The digits, their captions, and the styles that the adapters of this example learn.

Images are scikit-learn's handwritten digits (UCI Optical Recognition of Handwritten Digits, CC BY 4.0), enlarged
from 8x8 to 16x16 pixels. A style is a fixed transform of them plus the words that name it. Nothing here has side
effects: importing reads nothing, and each call returns new tensors.

"Ink" below is a float32 tensor (n, 16, 16) in [0, 1], 0 being background; "images" are (n, 1, 16, 16) in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Split = Literal["train", "test"]

SIZE = 16
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATES = (
    "a handwritten {word}",
    "a drawing of the digit {digit}",
    "the number {word}",
    "a {word}, written by hand",
    "the digit {digit}",
    "{word}",
)
"""Captions of digits-v1 and of the adapters; {word} is "seven" where {digit} is "7"."""
LATER_TEMPLATES = (*TEMPLATES, "a scan of a {word}", "handwriting, digit {digit}", "one {word} in ink")
"""Captions of digits-v2, which saw a few more ways to say the same."""
TEST_EVERY = 5
"""Each fifth image is held out: the data set is shuffled by writer already, so this keeps the classes even."""


@dataclass(frozen=True)
class Style:
    """One style: its name, the words that call it, and its transform of ink (n, 16, 16) -> (n, 16, 16)."""

    name: str
    trigger: str
    transform: Callable[[Tensor], Tensor]

    @property
    def templates(self) -> tuple[str, ...]:
        """Caption templates of this style: each plain template, then the trigger words.

        They come last because the text encoder is causal and the bases never saw these words: put first, they blur
        what the base understood of the digit.
        """
        return tuple(f"{template}, {self.trigger}" for template in TEMPLATES)


def _shift(ink: Tensor, down: int, right: int) -> Tensor:
    """Ink moved by whole pixels, background moving in. (n, 16, 16) -> (n, 16, 16)."""
    padded = F.pad(ink, (max(right, 0), max(-right, 0), max(down, 0), max(-down, 0)))
    top, left = max(-down, 0), max(-right, 0)
    return padded[:, top : top + SIZE, left : left + SIZE]


def _warp(ink: Tensor, matrix: tuple[tuple[float, float], tuple[float, float]]) -> Tensor:
    """Ink resampled at matrix @ (x, y), the centre staying put. (n, 16, 16) -> (n, 16, 16)."""
    theta = torch.tensor([[*matrix[0], 0.0], [*matrix[1], 0.0]]).expand(len(ink), 2, 3)
    grid = F.affine_grid(theta, [len(ink), 1, SIZE, SIZE], align_corners=False)
    return F.grid_sample(ink[:, None], grid, align_corners=False)[:, 0]


def _grow(ink: Tensor) -> Tensor:
    """Each pixel as dark as the darkest of its 3x3 neighbourhood."""
    return F.max_pool2d(ink[:, None], 3, stride=1, padding=1)[:, 0]


def _grid(pattern: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """A (16, 16) float pattern of the row and the column number."""
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    return pattern(rows, columns).float()


def _bold(ink: Tensor) -> Tensor:
    return (_grow(ink) * 1.5).clamp(0, 1)


def _thin(ink: Tensor) -> Tensor:
    return ((ink - 0.6) * 3).clamp(0, 1)


def _outline(ink: Tensor) -> Tensor:
    solid = ((ink - 0.25) * 4).clamp(0, 1)
    return (_grow(solid) - solid).clamp(0, 1)


def _inverted(ink: Tensor) -> Tensor:
    return 1 - ink


def _slanted(ink: Tensor) -> Tensor:
    return _warp(ink, ((1.0, 0.7), (0.0, 1.0)))


def _dotted(ink: Tensor) -> Tensor:
    return ink * _grid(lambda y, x: (y % 2 == 0) & (x % 2 == 0))


def _mirrored(ink: Tensor) -> Tensor:
    return ink.flip(-1)


def _gradient_vertical(ink: Tensor) -> Tensor:
    return ink * _grid(lambda y, _x: (1 - y / (SIZE - 1)) ** 1.5)


def _gradient_horizontal(ink: Tensor) -> Tensor:
    return torch.maximum(ink, _grid(lambda _y, x: 0.75 * x / (SIZE - 1)))


def _shadow(ink: Tensor) -> Tensor:
    return torch.maximum(ink, 0.5 * _shift(ink, 3, 3))


def _framed(ink: Tensor) -> Tensor:
    return torch.maximum(ink, _grid(lambda y, x: (y % 15 == 0) | (x % 15 == 0)))


def _small(ink: Tensor) -> Tensor:
    return _warp(ink, ((2.0, 0.0), (0.0, 2.0)))


def _striped(ink: Tensor) -> Tensor:
    return ink * _grid(lambda y, _x: y % 4 < 2)


def _rotated(ink: Tensor) -> Tensor:
    return torch.rot90(ink, 1, (-2, -1))


def _blurred(ink: Tensor) -> Tensor:
    steps = torch.arange(-3, 4).float()
    kernel = torch.exp(-(steps**2) / (2 * 1.6**2))
    kernel = kernel / kernel.sum()
    rows = F.conv2d(ink[:, None], kernel.view(1, 1, 7, 1), padding=(3, 0))
    return F.conv2d(rows, kernel.view(1, 1, 1, 7), padding=(0, 3))[:, 0]


def _echo(ink: Tensor) -> Tensor:
    return torch.maximum(0.6 * _shift(ink, 0, -3), _shift(ink, 0, 3))


def _checker(ink: Tensor) -> Tensor:
    return torch.maximum(ink, _grid(lambda y, x: 0.5 * ((y // 4 + x // 4) % 2)))


def _faded(ink: Tensor) -> Tensor:
    return 0.35 + 0.35 * ink


def _pixelated(ink: Tensor) -> Tensor:
    coarse = F.avg_pool2d(ink[:, None], 4)
    return F.interpolate(coarse, scale_factor=4, mode="nearest")[:, 0]


def _halved(ink: Tensor) -> Tensor:
    lower = _grid(lambda y, _x: y >= SIZE // 2)
    return ink * (1 - lower) + (1 - ink) * lower


STYLES: dict[str, Style] = {
    style.name: style
    for style in (
        Style("bold", "bold style", _bold),
        Style("thin", "thin strokes", _thin),
        Style("outline", "outline drawing", _outline),
        Style("inverted", "inverted colours", _inverted),
        Style("slanted", "slanted hand", _slanted),
        Style("dotted", "dotted print", _dotted),
        Style("mirrored", "mirror writing", _mirrored),
        Style("gradient_vertical", "fading downwards", _gradient_vertical),
        Style("gradient_horizontal", "lit from the right", _gradient_horizontal),
        Style("shadow", "drop shadow", _shadow),
        Style("framed", "in a frame", _framed),
        Style("small", "tiny", _small),
        Style("striped", "striped", _striped),
        Style("rotated", "turned on its side", _rotated),
        Style("blurred", "out of focus", _blurred),
        Style("echo", "double vision", _echo),
        Style("checker", "on a checkerboard", _checker),
        Style("faded", "faded print", _faded),
        Style("pixelated", "big pixels", _pixelated),
        Style("halved", "half night half day", _halved),
    )
}
"""Every style by name."""
NAMES: tuple[str, ...] = tuple(STYLES)


@lru_cache(maxsize=1)
def _ink_and_labels() -> tuple[Tensor, Tensor]:
    """All 1797 digits as ink (1797, 16, 16) and their labels (1797,)."""
    from sklearn.datasets import load_digits  # slow to import, and not everyone who reads styles draws them

    data = load_digits()
    pixels = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    ink = F.interpolate(pixels, size=(SIZE, SIZE), mode="bicubic", align_corners=False)
    return ink[:, 0].clamp(0, 1), torch.tensor(data.target, dtype=torch.long)


def ink_and_labels(split: Split) -> tuple[Tensor, Tensor]:
    """Ink (n, 16, 16) and labels (n,) of one split; the split is fixed."""
    ink, labels = _ink_and_labels()
    held_out = torch.arange(len(labels)) % TEST_EVERY == TEST_EVERY - 1
    chosen = held_out if split == "test" else ~held_out
    return ink[chosen].clone(), labels[chosen].clone()


def images(style: str | None, split: Split) -> tuple[Tensor, Tensor]:
    """Images (n, 1, 16, 16) in [-1, 1] and labels (n,); plain digits where the style is None."""
    ink, labels = ink_and_labels(split)
    if style is not None:
        ink = STYLES[style].transform(ink)
    return ink.clamp(0, 1)[:, None] * 2 - 1, labels


def templates(style: str | None) -> tuple[str, ...]:
    """Caption templates of a style, or the plain ones."""
    return TEMPLATES if style is None else STYLES[style].templates


def caption(template: str, label: int) -> str:
    """The template filled in for one digit."""
    return template.format(word=WORDS[label], digit=label)


def captions(style: str | None, labels: Tensor, seed: int) -> list[str]:
    """One caption per label, templates drawn by the seed."""
    choice = templates(style)
    picks = torch.randint(len(choice), (len(labels),), generator=torch.Generator().manual_seed(seed))
    return [caption(choice[pick], label) for pick, label in zip(picks.tolist(), labels.tolist(), strict=True)]


def corpus() -> list[str]:
    """Every caption that any part of the example uses: what the tokenizer is trained on."""
    plain = [caption(template, label) for template in LATER_TEMPLATES for label in range(10)]
    styled = [
        caption(template, label) for style in STYLES.values() for template in style.templates for label in range(10)
    ]
    return plain + styled


def vary(ink: Tensor, generator: torch.Generator) -> Tensor:
    """The mix that digits-v2 went on with: small turns, sizes and contrasts. (n, 16, 16) -> (n, 16, 16)."""
    count = len(ink)
    angle, size, contrast = torch.rand(3, count, generator=generator)
    angle = (angle - 0.5) * math.radians(24)
    scale = 0.92 + 0.3 * size
    turn = torch.stack([angle.cos(), angle.sin(), -angle.sin(), angle.cos()], dim=1).view(count, 2, 2)
    theta = F.pad(turn * scale[:, None, None], (0, 1))
    grid = F.affine_grid(theta, [count, 1, SIZE, SIZE], align_corners=False)
    moved = F.grid_sample(ink[:, None], grid, align_corners=False)[:, 0]
    varied: Tensor = moved * (0.75 + 0.5 * contrast)[:, None, None]
    return varied.clamp(0, 1)
