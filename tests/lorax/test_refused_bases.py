"""What is no base model, or not all of one, is refused with what was seen and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lorax.checkpoint import open_checkpoint
from lorax.errors import Stop
from lorax.weight_file import write_weight_file
from tests.stand_ins.original_files import PREFIX, compvis_file
from tests.stand_ins.tiny_bases import make_base

REFUSED: dict[str, tuple[dict[str, tuple[int, ...]], str]] = {
    "kohya's LoRA": (
        {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (4, 8), "x.alpha": (1,)},
        "this is an adapter and no base model",
    ),
    "PEFT's LoRA": (
        {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": (4, 8)},
        "this is an adapter and no base model",
    ),
    "a LoKr": ({"lycoris_transformer_blocks_0.lokr_w1": (4, 8)}, "this is an adapter and no base model"),
    "a VAE": ({"encoder.conv_in.weight": (8, 3, 3, 3), "decoder.conv_in.weight": (8, 4, 3, 3)}, "encoder.conv_in"),
    "nothing but a VAE": ({"first_stage_model.encoder.conv_in.weight": (8, 3, 3, 3)}, "0 tensors"),
    "a language model of unknown sizes": (
        {f"model.layers.{layer}.{path}.weight": (24, 24) for layer in range(2) for path in (
            "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
            "mlp.up_proj", "mlp.down_proj")} | {"model.embed_tokens.weight": (9, 24), "lm_head.weight": (9, 24)},
        "put config.json of the model beside the file",
    ),
    "half of a U-Net": (
        {f"{PREFIX}input_blocks.0.0.weight": (8, 4, 3, 3), f"{PREFIX}out.2.weight": (4, 8, 3, 3)},
        "is the file complete",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_base_is_refused_and_says_what_was_seen(case: str, tmp_path: Path) -> None:
    shapes, said = REFUSED[case]
    write_weight_file(tmp_path / "file.safetensors", {name: torch.ones(shape) for name, shape in shapes.items()})

    with pytest.raises(Stop) as raised:
        open_checkpoint(tmp_path / "file.safetensors", name="x")

    assert said in str(raised.value)
    assert str(tmp_path / "file.safetensors") in str(raised.value)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a sound file."""
    place = tmp_path_factory.mktemp("sound")
    return compvis_file(make_base(place / "tiny", seed=0), place / "tiny.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model.ckpt", "pickles.*safetensors"),
        ("model.pt", "pickles.*safetensors"),
        ("model.safetensors.part", "this download was not finished"),
        ("model.safetensors.incomplete", "this download was not finished"),
        ("model-00002-of-00005.safetensors", "part 2 of 5.*give the folder"),
        ("cut.safetensors", "truncated.*ownload"),
        ("page.safetensors", "web page"),
        ("renamed.safetensors", "pickle"),
        ("missing.safetensors", "no such file"),
    ],
)
def test_everyday_mistakes_are_told_what_to_do(name: str, said: str, sound: bytes, tmp_path: Path) -> None:
    contents = {
        "cut.safetensors": sound[:-100],
        "page.safetensors": b"<!doctype html><html></html>",
        "renamed.safetensors": b"PK\x03\x04" + bytes(100),
    }
    if name != "missing.safetensors":
        (tmp_path / name).write_bytes(contents.get(name, sound))

    with pytest.raises(Stop, match=f"(?s){said}"):
        open_checkpoint(tmp_path / name, name="x")


def test_a_peft_folder_is_no_base(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")

    with pytest.raises(Stop, match=r"adapter and no base model.*lorax inspect"):
        open_checkpoint(tmp_path, name="x")


def test_a_folder_of_a_class_that_is_not_known_says_which(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"_class_name": "KolorsUNet"}')

    with pytest.raises(Stop, match="KolorsUNet"):
        open_checkpoint(tmp_path, name="x")


def test_a_folder_whose_download_was_cut_off_says_so(tmp_path: Path) -> None:
    make_base(tmp_path / "tiny", seed=0)
    weights = tmp_path / "tiny" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name(f"{weights.name}.incomplete"))
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose" / "sdxl.safetensors.crdownload").touch()

    for folder in ("tiny", "loose"):
        with pytest.raises(Stop, match=r"not finished.*download the base model again"):
            open_checkpoint(tmp_path / folder, name="x")


def test_a_folder_with_pickles_only_is_told_what_to_take(tmp_path: Path) -> None:
    (tmp_path / "sd-v1-4.ckpt").touch()

    with pytest.raises(Stop, match=r"sd-v1-4\.ckpt is a pickle.*take the \.safetensors"):
        open_checkpoint(tmp_path, name="x")
