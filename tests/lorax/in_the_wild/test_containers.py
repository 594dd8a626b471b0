"""Element types, headers and words of real files, and what of them may go into another file."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lorax.read import AdapterFiles, read_adapter
from lorax.weight_file import open_weight_file
from lorax.write import write_adapter
from tests.lorax.in_the_wild.twins import Tensors, kohya
from tests.lorax.in_the_wild.wild import Wild, base, site

PATH = "mid_block.attentions.0.transformer_blocks.0.attn1"
MODULE = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1"


def some() -> Tensors:
    return kohya(f"{MODULE}_to_q", 1280, 1280) | kohya(f"{MODULE}_to_k", 1280, 1280)


TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_plain_casts_to_every_type_are_read_as_the_numbers_they_hold(dtype: torch.dtype, wild: Wild) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in some().items()}

    adapter = wild.read(tensors, ["sd1.5"])

    update = adapter.low_rank()[site(f"{PATH}.to_q")]
    assert torch.equal(update.up, tensors[f"{MODULE}_to_q.lora_up.weight"].float())
    assert torch.equal(update.down, tensors[f"{MODULE}_to_q.lora_down.weight"].float())
    assert adapter.dtype == dtype


def test_types_may_be_mixed_and_the_commonest_is_kept(wild: Wild) -> None:
    tensors = some()
    tensors[f"{MODULE}_to_q.lora_up.weight"] = tensors[f"{MODULE}_to_q.lora_up.weight"].half()
    tensors[f"{MODULE}_to_k.lora_up.weight"] = tensors[f"{MODULE}_to_k.lora_up.weight"].half()
    tensors[f"{MODULE}_to_k.lora_down.weight"] = tensors[f"{MODULE}_to_k.lora_down.weight"].half()

    found = wild.look(tensors, ["sd1.5"])
    adapter = wild.read(tensors, ["sd1.5"])

    assert adapter.dtype == torch.float16
    assert "mixed-dtypes" in {finding.code for finding in found.health}


def unaligned(tensors: Tensors, path: Path, *, extra: int) -> None:
    """Writes a file as early writers did, its body at an odd place: nothing pads the header."""
    entries: dict[str, object] = {}
    body = b""
    for name, tensor in tensors.items():
        content = tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.ndim else struct.pack("<f", tensor)
        entries[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [len(body), len(body) + len(content)],
        }
        body += content
    text = json.dumps({"__metadata__": {"x": "y" * extra}, **entries}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


@pytest.mark.parametrize("extra", range(1, 9))
def test_a_body_that_starts_anywhere_is_read(extra: int, tmp_path: Path) -> None:
    tensors = some()
    path = tmp_path / "early.safetensors"
    unaligned(tensors, path, extra=extra)

    adapter = read_adapter(AdapterFiles(path), candidates=[base("sd1.5")])

    assert torch.equal(adapter.low_rank()[site(f"{PATH}.to_k")].up, tensors[f"{MODULE}_to_k.lora_up.weight"])


def test_a_thumbnail_and_long_statistics_in_the_header_are_read_and_not_carried(wild: Wild) -> None:
    thumbnail = "data:image/jpeg;base64," + base64.b64encode(bytes(range(256)) * 4000).decode()
    tags = {f"10_folder{number}": {f"tag {each}": each for each in range(200)} for number in range(100)}
    metadata = {
        "modelspec.thumbnail": thumbnail,
        "ss_tag_frequency": json.dumps(tags),
        "ss_bucket_info": json.dumps({"buckets": {str(number): {"count": 1} for number in range(5000)}}),
        "modelspec.title": "a title",
    }

    adapter = wild.read(some(), ["sd1.5"], metadata)

    assert adapter.metadata.keys() == {"modelspec.title", "ss_tag_frequency"}
    assert len(json.dumps(dict(adapter.metadata))) < 2000


PRIVATE = {
    "ss_dataset_dirs": '{"10_alice_doe": {"n_repeats": 10}}',
    "ss_tag_frequency": '{"10_alice doe/private": {"sks woman": 20, "smile": 3}}',
    "ss_sd_model_name": "C:\\Users\\alice\\models\\v1-5-pruned.safetensors",
    "ss_training_comment": "trained in /home/alice/secret",
    "ss_output_name": "sks",
    "ss_vae_name": "D:/vae/alice.pt",
    "ss_reg_dataset_dirs": "{}",
    "ss_session_id": "1234",
    "ot_config": '{"base_model_name": "/home/alice/model"}',
    "modelspec.author": "Someone",
    "modelspec.description": "see file:///C:/Users/alice/notes.txt",
    "modelspec.merged_from": "\\\\nas\\alice\\a.safetensors",
}


@pytest.mark.parametrize("dialect", ["kohya", "lycoris", "diffusers", "comfyui", "onetrainer", "ai_toolkit"])
def test_private_paths_and_folders_do_not_get_into_a_file_that_is_written(
    dialect: str, wild: Wild, tmp_path: Path
) -> None:
    adapter = wild.read(some(), ["sd1.5"], PRIVATE)

    paths = write_adapter(adapter, tmp_path / "out", dialect=dialect, base=base("sd1.5"), stem="sks", metadata={})

    header = json.dumps(open_weight_file(paths[0]).metadata)
    for word in ("alice", "secret", "Users", "nas", "home"):
        assert word not in header
    assert "sks woman" in header


def test_private_paths_do_not_get_into_messages(wild: Wild) -> None:
    metadata = {"ss_sd_model_name": "C:\\Users\\alice doe\\clients\\acme\\model.safetensors"}
    tensors = kohya("lora_te_text_model_encoder_layers_0_mlp_fc1", 3072, 768)

    refusal = wild.refusal(tensors, ["sd1.5", "bk-sdm-base"], metadata)

    assert refusal.reason == "base-undecided"
    assert "Users" not in str(refusal)
    assert "alice" not in str(refusal)


def test_the_hash_of_a_file_is_counted_and_not_believed(wild: Wild) -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

    adapter = wild.read(some(), ["sd1.5"], {"sshs_model_hash": empty, "sshs_legacy_hash": "deadbeef"})

    assert adapter.weights_sha256 != empty
    assert adapter.weights_sha256 == open_weight_file(wild.folder / "adapter_model.safetensors").weights_sha256()


@pytest.mark.parametrize("word", ["", "None", "null", "NOFILE", "IsADirectory"])
def test_words_that_say_nothing_decide_nothing_and_do_no_harm(word: str, wild: Wild) -> None:
    metadata = {
        "ss_base_model_version": word,
        "modelspec.architecture": word,
        "ss_sd_model_name": word,
        "ss_new_sd_model_hash": word,
        "ss_sd_model_hash": word,
        "lora_adapter_metadata_": word,
    }

    decided = kohya("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k", 1280, 768)

    assert wild.read(decided, ["sd1.5", "sdxl"], metadata).base.name == "sd1.5"
    assert (
        "neither the file nor the catalogue names a base model"
        in wild.refusal(some(), ["sd1.5", "sdxl"], metadata).message
    )


def test_a_file_sorted_by_type_and_one_sorted_by_name_are_the_same_adapter(wild: Wild) -> None:
    tensors: dict[str, Tensor] = some()
    one = wild.read(dict(sorted(tensors.items())), ["sd1.5"])
    other = wild.read(dict(sorted(tensors.items(), reverse=True)), ["sd1.5"])

    assert one.updates.keys() == other.updates.keys()
    for place, update in one.low_rank().items():
        assert torch.equal(update.up, other.low_rank()[place].up)
