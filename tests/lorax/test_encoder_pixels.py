"""Pictures are prepared as transformers prepares them, without Pillow in between."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from lorax.encoder_folder import EncoderFolder
from lorax.encoder_pixels import Preparation, read_preparation
from lorax.errors import Stop
from tests.stand_ins.tiny_encoders import preprocessor


def smooth(height: int, width: int, channels: int = 3) -> Tensor:
    """Returns a picture (1, h, w, c) uint8 with edges and gradients."""
    noise = torch.rand(1, channels, 6, 6, generator=torch.Generator().manual_seed(5))
    shown = torch.nn.functional.interpolate(noise, (height, width), mode="bilinear")
    return (shown * 300 - 20).clamp(0, 255).permute(0, 2, 3, 1).round().to(torch.uint8)


def read(folder: Path, **changes: object) -> Preparation:
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor(32, **changes)))
    return read_preparation(EncoderFolder(folder, "clip", "a folder"), Preparation.like_clip(8))


@pytest.mark.parametrize("size", [(64, 80), (200, 77), (32, 32), (12, 20)], ids=str)
@pytest.mark.parametrize("resample", [2, 3], ids=["bilinear", "bicubic"])
def test_it_comes_out_as_from_the_processor_of_transformers(
    size: tuple[int, int], resample: int, tmp_path: Path
) -> None:
    said = preprocessor(32, resample=resample)
    picture = smooth(*size)
    wanted = CLIPImageProcessorPil(**said)(Image.fromarray(picture[0].numpy()), return_tensors="pt").pixel_values

    found = read(tmp_path, resample=resample)(picture)

    one_level = 1 / 255 / min(said["image_std"])  # type: ignore[call-overload]
    assert found.shape == wanted.shape == (1, 3, 32, 32)
    assert (found - wanted).abs().max() < 1.01 * one_level
    assert (found - wanted).abs().mean() < 0.25 * one_level  # Pillow rounds in between, after one of the two axes


def test_both_sides_are_resized_where_both_are_said(tmp_path: Path) -> None:
    prepare = read(tmp_path, size={"height": 16, "width": 16}, do_center_crop=False)

    assert prepare(smooth(40, 60)).shape == (1, 3, 16, 16)


def test_a_size_may_be_a_single_number_as_older_files_have_it(tmp_path: Path) -> None:
    assert read(tmp_path, size=32, crop_size=24) == Preparation(32, (24, 24), (0.5, 0.4, 0.3), (0.2, 0.3, 0.25))


def test_processors_saved_with_the_tokenizer_are_read(tmp_path: Path) -> None:
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": preprocessor(20)}))

    assert read_preparation(EncoderFolder(tmp_path, "clip", "a folder"), Preparation.like_clip(8)).side == 20


def test_without_a_file_the_default_holds(tmp_path: Path) -> None:
    default = Preparation.like_clip(8)

    assert read_preparation(EncoderFolder(tmp_path, "clip", "a folder"), default) == default


def test_colour_becomes_grey_for_an_encoder_of_one_channel() -> None:
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).expand(1, 4, 4, 3)

    assert Preparation(4, None, (0.0,), (1.0,))(red).mean() == pytest.approx(76 / 255)


@pytest.mark.parametrize(
    "changes",
    [{"rescale_factor": 1.0}, {"crop_size": 64}, {"size": {}}, {"image_mean": None}, {"resample": 0}],
    ids=str,
)
def test_steps_that_are_not_taken_here_stop(changes: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(Stop, match=r"its image processor .* cannot be followed"):
        read(tmp_path, **changes)


def test_pictures_of_strange_channels_stop() -> None:
    with pytest.raises(Stop, match="pictures have 4 channels"):
        Preparation.like_clip(4)(torch.zeros(1, 4, 4, 4, dtype=torch.uint8))
