"""What every kind of encoder has to keep. A new file in lorax/encoders is tested here unasked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lorax.encoder import Encoder
from lorax.encoders import ENCODERS
from lorax.errors import Stop
from tests.stand_ins.tiny_encoders import MAKERS

PROMPTS = ("a digit", "bold style , a digit", "a handwritten one", "a digit", "one")


@pytest.fixture(params=sorted(ENCODERS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def encoder(kind: str, tmp_path: Path) -> Encoder:
    MAKERS[kind](tmp_path / kind)
    return ENCODERS[kind].open(tmp_path / kind, "cpu")


def pictures(channels: int = 3) -> Tensor:
    """Returns five pictures of another size and shape than any encoder wants."""
    return torch.randint(0, 256, (5, 40, 48, channels), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def test_a_kind_says_what_it_is_and_where_it_comes_from(kind: str) -> None:
    assert ENCODERS[kind].name == kind
    assert ENCODERS[kind].summary
    assert ENCODERS[kind].reference


def test_points_are_finite_have_length_one_and_differ(encoder: Encoder) -> None:
    points = encoder.pictures(pictures())

    assert points.shape[0] == 5
    assert points.dtype == torch.float32
    assert torch.allclose(points.norm(dim=1), torch.ones(5), atol=1e-5)
    assert (points @ points.T - torch.eye(5)).max() < 1 - 1e-6


def test_what_is_seen_beside_a_picture_does_not_matter(encoder: Encoder) -> None:
    shown = pictures()
    alone = torch.cat([encoder.pictures(each[None]) for each in shown])

    assert torch.allclose(encoder.pictures(shown), alone, atol=1e-5)


def test_many_pictures_are_seen_in_parts_and_come_out_in_order(encoder: Encoder) -> None:
    many = pictures().repeat(7, 1, 1, 1)

    assert torch.allclose(encoder.pictures(many), encoder.pictures(pictures()).repeat(7, 1), atol=1e-5)


def test_the_same_pictures_are_seen_alike_twice(encoder: Encoder) -> None:
    assert torch.equal(encoder.pictures(pictures()), encoder.pictures(pictures()))


def test_grey_is_seen_as_colour_of_three_equal_channels(encoder: Encoder) -> None:
    grey = pictures(1)

    assert torch.allclose(encoder.pictures(grey), encoder.pictures(grey.expand(-1, -1, -1, 3)), atol=1e-5)


def test_an_encoder_that_reads_gives_points_in_the_space_of_its_pictures(encoder: Encoder) -> None:
    points = encoder.words(PROMPTS)

    if points is not None:
        assert points.shape == (5, encoder.pictures(pictures()).shape[1])
        assert torch.allclose(points.norm(dim=1), torch.ones(5), atol=1e-5)
        assert torch.equal(points[0], points[3])
        assert not torch.allclose(points[0], points[1])


def test_an_encoder_that_asks_about_preference_has_one_for_each_picture(encoder: Encoder) -> None:
    found = encoder.preferences(pictures(), PROMPTS)

    assert (found is not None) == (encoder.asks == "preference")
    if found is not None:
        assert found.shape == (5,)
        assert torch.isfinite(found).all()
        alone = [encoder.preferences(each[None], [prompt]) for each, prompt in zip(pictures(), PROMPTS, strict=True)]
        assert torch.allclose(found, torch.cat([each for each in alone if each is not None]), atol=1e-4)


def test_what_it_asks_about_is_one_of_three_things(encoder: Encoder) -> None:
    assert encoder.asks in {"likeness", "style", "preference"}


def test_a_folder_that_is_not_there_stops_with_what_is_expected(kind: str, tmp_path: Path) -> None:
    with pytest.raises(Stop, match=r"there is no such folder\. Expected is .*docs/encoders\.md"):
        ENCODERS[kind].open(tmp_path / "nothing", "cpu")


def test_a_pickle_is_never_opened_and_its_conversion_told(kind: str, tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")

    with pytest.raises(Stop, match=r"pytorch_model\.bin is a pickle.*Convert it once.*save_"):
        ENCODERS[kind].open(tmp_path, "cpu")


def test_a_folder_that_lacks_a_weight_stops_and_is_never_made_up(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / kind
    MAKERS[kind](folder)
    tensors = load_file(folder / "model.safetensors")
    lost = next(name for name in sorted(tensors) if "visi" in name or "layer" in name or "blocks" in name)
    del tensors[lost]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(Stop, match=rf"no {kind} encoder"):
        ENCODERS[kind].open(folder, "cpu")


def test_a_truncated_file_stops(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / kind
    MAKERS[kind](folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])

    with pytest.raises(Stop, match=rf"no {kind} encoder"):
        ENCODERS[kind].open(folder, "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator on this machine")
def test_an_accelerator_sees_and_likes_what_a_cpu_does(kind: str, encoder: Encoder, tmp_path: Path) -> None:
    other = ENCODERS[kind].open(tmp_path / kind, "cuda")

    assert torch.allclose(encoder.pictures(pictures()), other.pictures(pictures()), atol=1e-3)
    for own, found in (
        (encoder.words(PROMPTS), other.words(PROMPTS)),
        (encoder.preferences(pictures(), PROMPTS), other.preferences(pictures(), PROMPTS)),
    ):
        assert (own is None) == (found is None)
        assert own is None or torch.allclose(own, found, atol=1e-2, rtol=1e-2)
