"""The encoder that is shipped with the digits example sees what its pictures show, and which conversion is right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import CLIPModel

from examples.digits import styles
from examples.digits.encoder import KINDS, accuracy, all_images, make_tokenizer, save, train
from lorax.adapter import Adapter
from lorax.checkpoint import open_checkpoint
from lorax.encoder import Encoder
from lorax.encoders import ENCODERS
from lorax.probe import ProbeSettings
from lorax.read import AdapterFiles, read_adapter
from lorax.score import ScoreBench
from lorax.score_settings import ScoreSettings

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
FOLDER = DIGITS / "encoder"
PROBE = ProbeSettings(prompts=tuple(f"a handwritten {word}" for word in styles.WORDS), samples=4, steps=8)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return ENCODERS["clip"].open(FOLDER, "cpu")


def held_out(count: int) -> tuple[Tensor, Tensor]:
    """Returns some held-out pictures of every style (kinds, n, 16, 16, 1) uint8, and their digits (n,)."""
    images, labels = all_images("test")
    return ((images[:, :count] + 1) * 127.5).round().to(torch.uint8).permute(0, 1, 3, 4, 2), labels[:count]


def test_the_nearest_caption_of_a_held_out_picture_names_its_digit_and_style(encoder: Encoder) -> None:
    pixels, labels = held_out(40)
    templates = [styles.templates(kind)[0] for kind in KINDS]
    words = encoder.words([styles.caption(template, label) for template in templates for label in range(10)])
    assert words is not None

    nearest = (encoder.pictures(pixels.flatten(0, 1)) @ words.T).argmax(1).view(len(KINDS), -1)

    style, digit = nearest // 10 == torch.arange(len(KINDS))[:, None], nearest % 10 == labels
    assert style.float().mean() > 0.97
    assert digit.float().mean() > 0.9


def test_the_folder_is_small_and_holds_half_precision_and_no_pickle() -> None:
    files = [file for file in FOLDER.iterdir() if file.is_file()]

    assert sum(file.stat().st_size for file in files) < 700_000
    assert {file.suffix for file in files} == {".json", ".safetensors"}


def test_training_with_the_same_seed_gives_the_same_encoder(tmp_path: Path) -> None:
    first, second = (train(steps=2)[0] for _ in range(2))

    assert all(torch.equal(own, other) for own, other in zip(first.parameters(), second.parameters(), strict=True))
    save(first, make_tokenizer(), tmp_path / "encoder")
    opened = ENCODERS["clip"].open(tmp_path / "encoder", "cpu")
    assert opened.pictures(held_out(1)[0][0]).shape == (1, 64)


def test_accuracy_is_that_of_chance_before_any_training() -> None:
    torch.manual_seed(0)
    shipped = CLIPModel.from_pretrained(FOLDER).config

    assert accuracy(CLIPModel(shipped).float().eval(), make_tokenizer())["both"] < 0.05


def scaled(adapter: Adapter, factor: float) -> Adapter:
    updates = {site: replace(update, scale=factor * update.scale) for site, update in adapter.updates.items()}
    return replace(adapter, updates=updates)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bold", "outline"])
def test_likeness_ranks_conversions_as_their_makers_would(name: str, encoder: Encoder) -> None:
    folders = [DIGITS / "bases" / base for base in ("digits-v1", "digits-v2")]
    source, target = (open_checkpoint(folder, name=folder.name).base for folder in folders)
    adapter, native = (
        read_adapter(AdapterFiles(file, name=file.name), candidates=[base])
        for file, base in (
            (DIGITS / "catalogue" / f"{name}.safetensors", source),
            (DIGITS / "natives" / "digits-v2" / f"{name}.safetensors", target),
        )
    )
    bench = ScoreBench.open(*folders, settings=PROBE, score=ScoreSettings(pictures=6), encoders={"digits": encoder})
    candidates = {
        "native": native,
        "copy": adapter,
        "half": scaled(adapter, 0.5),
        "flipped": scaled(adapter, -1.0),
    }

    found = bench.tally(adapter, candidates, views=["pictures"]).figures()

    likeness = {label: figures["likeness:digits"].value for label, figures in found.items()}
    assert sorted(likeness, key=lambda label: -likeness[label]) == ["native", "copy", "half", "zero", "flipped"]
    assert likeness["native"] > 0.8
    assert likeness["copy"] > 0.6
