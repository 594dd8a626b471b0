from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lorax.adapter import Site, SiteShape
from lorax.base_model import CUSTOM
from lorax.base_models import FAMILIES
from lorax.checkpoint import _version, open_checkpoint
from lorax.errors import Stop
from lorax.inventory import Inventory
from lorax.weight_file import open_weight_file, sha256_file, write_weight_file
from tests.stand_ins.adapter_files import small_base, write_base_folder

UNET_FILE = "unet/diffusion_pytorch_model.safetensors"


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    file = open_weight_file(path)
    return {name: file.read(name) for name in file.tensors}


def into_shards(folder: Path) -> Path:
    """Spreads the U-Net of a base over two files with an index, as large models are saved."""
    tensors = tensors_of(folder / UNET_FILE)
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        shard = f"diffusion_pytorch_model-0000{number}-of-00002.safetensors"
        write_weight_file(folder / "unet" / shard, {name: tensors[name] for name in part})
        weight_map |= dict.fromkeys(part, shard)
    (folder / UNET_FILE).unlink()
    (folder / f"{UNET_FILE}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def test_a_folder_is_opened_with_its_sites_labels_and_hashes(tmp_path: Path) -> None:
    folder = write_base_folder(tmp_path / "small")

    base = open_checkpoint(folder, name="small-v1", labels=["Small v1"]).base

    assert (base.name, base.family, base.version, base.labels) == (
        "small-v1",
        "stable-diffusion",
        CUSTOM,
        ("Small v1",),
    )
    assert base.sites == small_base().sites
    assert sha256_file(folder / UNET_FILE) in base.file_hashes
    assert len(base.fingerprint) == 64


@pytest.mark.parametrize("level", ["text_model.", ""])
def test_weights_are_read_in_their_own_shape_whatever_the_text_encoder_calls_them(level: str, tmp_path: Path) -> None:
    folder = write_base_folder(tmp_path / "small", text_model=bool(level))
    checkpoint = open_checkpoint(folder, name="small")
    site = Site("text_encoder", "text_model.encoder.layers.0.mlp.fc1")
    stored = tensors_of(folder / "text_encoder/model.safetensors")

    weight = checkpoint.weight(site)

    assert weight.dtype == torch.float32
    assert torch.equal(weight, stored[f"{level}encoder.layers.0.mlp.fc1.weight"].float())
    for site, shape in checkpoint.base.sites.items():
        assert tuple(checkpoint.weight(site).shape) == shape.weight_shape


def test_the_fingerprint_is_of_the_content_not_of_the_files(tmp_path: Path) -> None:
    whole = open_checkpoint(write_base_folder(tmp_path / "whole", seed=1), name="a").base
    shards = open_checkpoint(into_shards(write_base_folder(tmp_path / "shards", seed=1)), name="b").base
    renamed = open_checkpoint(write_base_folder(tmp_path / "renamed", seed=1, text_model=False), name="c").base
    other = open_checkpoint(write_base_folder(tmp_path / "other", seed=2), name="a").base

    assert whole.fingerprint == shards.fingerprint == renamed.fingerprint
    assert whole.fingerprint != other.fingerprint
    assert whole.sites == shards.sites == renamed.sites


def test_one_changed_bit_changes_the_fingerprint(tmp_path: Path) -> None:
    before = open_checkpoint(write_base_folder(tmp_path / "small"), name="small").base.fingerprint
    path = tmp_path / "small" / UNET_FILE
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)

    assert open_checkpoint(tmp_path / "small", name="small").base.fingerprint != before


def test_weights_of_shards_are_found(tmp_path: Path) -> None:
    whole = open_checkpoint(write_base_folder(tmp_path / "whole"), name="whole")
    shards = open_checkpoint(into_shards(write_base_folder(tmp_path / "shards")), name="shards")

    for site in whole.base.sites:
        assert torch.equal(whole.weight(site), shards.weight(site))


def test_an_unknown_site_stops_the_run(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_base_folder(tmp_path / "small"), name="small")

    with pytest.raises(Stop, match="unet:nowhere"):
        checkpoint.weight(Site("unet", "nowhere"))


def test_a_single_file_of_any_name_will_do_but_two_will_not(tmp_path: Path) -> None:
    folder = write_base_folder(tmp_path / "small")
    (folder / UNET_FILE).rename(folder / "unet" / "weights.safetensors")
    assert open_checkpoint(folder, name="small").base.sites == small_base().sites

    shutil.copy(folder / "unet" / "weights.safetensors", folder / "unet" / "more.safetensors")
    with pytest.raises(Stop, match=r"more\.safetensors, weights\.safetensors"):
        open_checkpoint(folder, name="small")


def test_half_precision_files_are_taken_where_there_are_no_others(tmp_path: Path) -> None:
    folder = write_base_folder(tmp_path / "small")
    (folder / UNET_FILE).rename(folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")

    assert len(open_checkpoint(folder, name="small").base.sites) == len(small_base().sites)


@pytest.mark.parametrize("trouble", ["missing", "empty", "no weights", "truncated", "pickle"])
def test_a_folder_that_is_no_sound_base_stops_the_run_and_says_why(trouble: str, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    if trouble != "missing":
        write_base_folder(folder)
    match trouble:
        case "empty":
            (folder / "unet" / "config.json").unlink()
        case "no weights":
            (folder / UNET_FILE).unlink()
        case "truncated":
            content = (folder / UNET_FILE).read_bytes()
            (folder / UNET_FILE).write_bytes(content[:-10])
        case "pickle":
            (folder / UNET_FILE).rename(folder / "unet" / "diffusion_pytorch_model.bin")

    with pytest.raises(Stop, match=str(folder)) as raised:
        open_checkpoint(folder, name="small")

    assert "expected" in str(raised.value) or "ownload" in str(raised.value) or "give" in str(raised.value)


@pytest.mark.parametrize(
    "index",
    [
        "{",
        "[]",
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {"a": 1}}',
        '{"weight_map": {"a": "../x.safetensors"}}',
    ],
    ids=range(6),
)
def test_a_list_of_shards_is_not_trusted(index: str, tmp_path: Path) -> None:
    folder = write_base_folder(tmp_path / "small")
    (folder / UNET_FILE).unlink()
    (folder / f"{UNET_FILE}.index.json").write_text(index)

    with pytest.raises(Stop, match=r"index\.json"):
        open_checkpoint(folder, name="small")


def test_a_known_inventory_gives_its_version() -> None:
    family = FAMILIES["stable-diffusion"]
    known = replace(small_base(), version="small")

    assert _version(replace(family, versions=lambda: (known,)), Inventory(dict(known.sites))) == "small"
    assert _version(family, Inventory({Site("unet", "conv_in"): SiteShape(1, 1)})) == CUSTOM


def test_a_shard_that_is_missing_stops_the_run_and_is_named(tmp_path: Path) -> None:
    folder = into_shards(write_base_folder(tmp_path / "small"))
    (folder / "unet" / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()

    with pytest.raises(Stop, match=r"1 of its 2 files are missing \(diffusion_pytorch_model-00002.*download"):
        open_checkpoint(folder, name="small")


def test_a_shard_that_ends_early_stops_the_run(tmp_path: Path) -> None:
    folder = into_shards(write_base_folder(tmp_path / "small"))
    shard = folder / "unet" / "diffusion_pytorch_model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-4])

    with pytest.raises(Stop, match=r"00001-of-00002.*truncated.*ownload"):
        open_checkpoint(folder, name="small")


def test_a_shard_of_another_model_stops_the_run(tmp_path: Path) -> None:
    folder = into_shards(write_base_folder(tmp_path / "small"))
    shard = folder / "unet" / "diffusion_pytorch_model-00001-of-00002.safetensors"
    tensors = tensors_of(shard)
    write_weight_file(shard, dict(list(tensors.items())[1:]))

    with pytest.raises(Stop, match=rf"holds {len(tensors) - 1} tensors where {len(tensors)} are listed"):
        open_checkpoint(folder, name="small")


def test_shards_without_their_list_are_not_taken_for_a_model(tmp_path: Path) -> None:
    folder = into_shards(write_base_folder(tmp_path / "small"))
    (folder / f"{UNET_FILE}.index.json").unlink()

    with pytest.raises(Stop, match=r"index\.json.*is missing"):
        open_checkpoint(folder, name="small")


def test_tensors_that_follow_from_the_configuration_are_no_content(tmp_path: Path) -> None:
    plain = open_checkpoint(write_base_folder(tmp_path / "plain"), name="plain").base
    folder = write_base_folder(tmp_path / "more")
    path = folder / "text_encoder" / "model.safetensors"
    write_weight_file(path, tensors_of(path) | {"text_model.embeddings.position_ids": torch.arange(7)[None]})

    found = open_checkpoint(folder, name="more").base

    assert found.fingerprint == plain.fingerprint
    assert found.parameters == plain.parameters
    assert found.file_hashes != plain.file_hashes


def test_the_hash_of_each_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    folder = into_shards(write_base_folder(tmp_path / "small"))

    found = open_checkpoint(folder, name="small").base.file_hashes

    assert set(found) == {sha256_file(path) for path in folder.rglob("*.safetensors")}
