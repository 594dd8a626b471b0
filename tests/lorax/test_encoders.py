"""Encoders give what other implementations give of the same weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPTokenizer

from lorax.encoder_pixels import Preparation
from lorax.encoders import ENCODERS
from lorax.errors import Stop
from tests.stand_ins.tiny_encoders import (
    LENGTH,
    SIDE,
    bert_tokenizer,
    make_clip,
    make_csd,
    make_dinov2,
    make_hpsv2,
    make_imagereward,
    make_siglip,
    preprocessor,
)

PROMPTS = ["a digit", "bold style , one", "a handwritten digit , bold style"]


def pictures() -> Tensor:
    return torch.randint(0, 256, (3, 24, 32, 3), generator=torch.Generator().manual_seed(3)).to(torch.uint8)


def prepared(side: int) -> Tensor:
    return Preparation.like_clip(side)(pictures())


def close(first: Tensor | None, second: Tensor) -> bool:
    assert first is not None
    return torch.allclose(first, second, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_csd_gives_the_style_of_a_model_that_is_built_by_its_paper(tmp_path: Path) -> None:
    model = make_csd(tmp_path)

    encoder = ENCODERS["csd"].open(tmp_path, "cpu")

    assert encoder.asks == "style"
    assert close(encoder.pictures(pictures()), model(prepared(16)))


def test_a_csd_checkpoint_saved_from_several_devices_is_read_alike(tmp_path: Path) -> None:
    make_csd(tmp_path / "one")
    (tmp_path / "several").mkdir()
    tensors = load_file(tmp_path / "one" / "model.safetensors")
    save_file({f"module.{name}": tensor for name, tensor in tensors.items()}, tmp_path / "several" / "m.safetensors")

    one, several = (ENCODERS["csd"].open(tmp_path / name, "cpu") for name in ("one", "several"))

    assert torch.equal(one.pictures(pictures()), several.pictures(pictures()))


@torch.no_grad()
def test_hpsv2_gives_the_preference_of_an_open_clip_model(tmp_path: Path) -> None:
    model = make_hpsv2(tmp_path)
    tokens = CLIPTokenizer.from_pretrained(tmp_path)(
        PROMPTS, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    )
    ends = tokens.attention_mask.sum(1) - 1

    encoder = ENCODERS["hpsv2"].open(tmp_path, "cpu")

    assert close(encoder.preferences(pictures(), PROMPTS), model.preference(prepared(SIDE), tokens.input_ids, ends))


@torch.no_grad()
def test_hpsv2_reads_a_folder_of_transformers_too(tmp_path: Path) -> None:
    model = make_clip(tmp_path)
    encoder, reader = ENCODERS["hpsv2"].open(tmp_path, "cpu"), ENCODERS["clip"].open(tmp_path, "cpu")
    words = reader.words(PROMPTS)
    assert words is not None

    expected = model.logit_scale.exp() * (reader.pictures(pictures()) * words).sum(1)

    assert close(encoder.preferences(pictures(), PROMPTS), expected)


@torch.no_grad()
def test_imagereward_gives_the_reward_of_a_model_that_is_built_by_its_paper(tmp_path: Path) -> None:
    model = make_imagereward(tmp_path)
    tokens = bert_tokenizer()(PROMPTS, padding="max_length", max_length=35, truncation=True, return_tensors="pt")
    assert len(set(tokens.attention_mask.sum(1).tolist())) == 3

    found = ENCODERS["imagereward"].open(tmp_path, "cpu").preferences(pictures(), PROMPTS)

    assert close(found, model.reward(prepared(32), tokens.input_ids, tokens.attention_mask))


def test_imagereward_says_which_tensor_is_missing(tmp_path: Path) -> None:
    make_imagereward(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["mlp.layers.4.bias"]
    save_file(tensors, tmp_path / "model.safetensors")

    with pytest.raises(Stop, match=r"there is no tensor 'mlp\.layers\.4\.bias'"):
        ENCODERS["imagereward"].open(tmp_path, "cpu")


@torch.no_grad()
def test_clip_gives_what_transformers_gives_for_its_own_logits(tmp_path: Path) -> None:
    model = make_clip(tmp_path)
    tokens = CLIPTokenizer.from_pretrained(tmp_path)(PROMPTS, padding=True, truncation=True, return_tensors="pt")
    said = preprocessor(SIDE)
    mean, std = (torch.tensor(said[name]).view(1, 3, 1, 1) for name in ("image_mean", "image_std"))
    shown = Preparation(SIDE, (SIDE, SIDE), (0.0,) * 3, (1.0,) * 3)(pictures())
    logits = model(pixel_values=(shown - mean) / std, **tokens).logits_per_image

    encoder = ENCODERS["clip"].open(tmp_path, "cpu")
    words = encoder.words(PROMPTS)
    assert words is not None

    assert close(encoder.pictures(pictures()) @ words.T * model.logit_scale.exp(), logits)


@torch.no_grad()
def test_clip_gives_the_cosines_of_siglip_on_texts_padded_to_full_length(tmp_path: Path) -> None:
    model = make_siglip(tmp_path)
    tokens = CLIPTokenizer.from_pretrained(tmp_path)(
        PROMPTS, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    )
    whole = torch.nn.functional.interpolate(
        pictures().permute(0, 3, 1, 2).float(), (SIDE, SIDE), mode="bicubic", antialias=True
    )
    shown = whole.round().clamp(0, 255) / 127.5 - 1
    logits = model(pixel_values=shown, input_ids=tokens.input_ids).logits_per_image

    encoder = ENCODERS["clip"].open(tmp_path, "cpu")
    words = encoder.words(PROMPTS)
    assert words is not None

    assert close(encoder.pictures(pictures()) @ words.T * model.logit_scale.exp() + model.logit_bias, logits)


@pytest.mark.parametrize("registers", [False, True])
@torch.no_grad()
def test_dinov2_gives_the_pooled_output_of_transformers(registers: bool, tmp_path: Path) -> None:  # noqa: FBT001
    model = make_dinov2(tmp_path, registers=registers)
    said = preprocessor(28)
    prepare = Preparation(28, (28, 28), tuple(said["image_mean"]), tuple(said["image_std"]))  # type: ignore[arg-type]

    found = ENCODERS["dinov2"].open(tmp_path, "cpu").pictures(pictures())

    assert close(found, normalize(model(pixel_values=prepare(pictures())).pooler_output))


def test_a_folder_of_another_kind_is_told_by_its_configuration(tmp_path: Path) -> None:
    make_clip(tmp_path)

    with pytest.raises(Stop, match=r"config\.json says model_type 'clip', and dinov2 or dinov2_with_registers"):
        ENCODERS["dinov2"].open(tmp_path, "cpu")


def test_an_image_processor_that_cannot_be_followed_stops(tmp_path: Path) -> None:
    make_clip(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor(SIDE, resample=1)))

    with pytest.raises(Stop, match=r"its image processor .* cannot be followed: KeyError 1"):
        ENCODERS["clip"].open(tmp_path, "cpu")
