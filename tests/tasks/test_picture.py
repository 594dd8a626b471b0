from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tasks.picture import compose, save_grid


def tiles(count: int, *, size: int, channels: int, value: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.full((count, size, size, channels), value, dtype=np.uint8)


def test_small_tiles_grow_by_a_whole_factor_and_stay_sharp() -> None:
    grid = compose({"source": tiles(3, size=16, channels=1, value=7)})
    assert grid.shape == (50, 150, 3)
    assert set(np.unique(grid)) == {7, 255}


def test_rows_of_different_lengths_line_up_at_the_left() -> None:
    grid = compose({"a": tiles(3, size=16, channels=3, value=0), "b": tiles(1, size=16, channels=1, value=9)})
    assert grid.shape == (100, 150, 3)
    assert (grid[50:98, :48] == 9).all()
    assert (grid[50:, 50:] == 255).all()


def test_tiles_that_are_large_already_keep_their_size() -> None:
    assert compose({"a": tiles(1, size=64, channels=3, value=0)}).shape == (66, 66, 3)


def test_the_file_is_a_png_of_the_same_pixels(tmp_path: Path) -> None:
    rows = {"a": tiles(2, size=16, channels=1, value=7)}
    save_grid(tmp_path / "images" / "x.png", rows)
    with Image.open(tmp_path / "images" / "x.png") as image:
        assert image.format == "PNG"
        assert (np.asarray(image) == compose(rows)).all()
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["x.png"]
