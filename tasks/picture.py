"""Composes the before/after grid of one adapter."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TILE_PIXELS = 48
GAP_PIXELS = 2


def compose(rows: Mapping[str, NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Returns one image (height, width, 3) of rows of tiles; each row is (n, h, w, channels), channels 1 or 3.

    Small tiles grow to about 48 pixels by whole factors, every pixel kept sharp.
    """
    lines = [np.concatenate([_framed(tile) for tile in row], axis=1) for row in rows.values()]
    width = max(line.shape[1] for line in lines)
    padded = [np.pad(line, ((0, 0), (0, width - line.shape[1]), (0, 0)), constant_values=255) for line in lines]
    return np.concatenate(padded, axis=0)


def save_grid(path: Path, rows: Mapping[str, NDArray[np.uint8]]) -> None:
    """Writes the grid as PNG by one rename."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    Image.fromarray(compose(rows)).save(draft, format="PNG", optimize=True)
    draft.replace(path)


def _framed(tile: NDArray[np.uint8]) -> NDArray[np.uint8]:
    factor = max(1, round(TILE_PIXELS / tile.shape[0]))
    large = tile.repeat(factor, axis=0).repeat(factor, axis=1)
    colour = large if large.shape[2] == 3 else large[:, :, :1].repeat(3, axis=2)
    edge = ((0, GAP_PIXELS), (0, GAP_PIXELS), (0, 0))
    return np.pad(colour, edge, constant_values=255)
