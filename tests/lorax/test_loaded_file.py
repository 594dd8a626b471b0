from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lorax.errors import TryLater
from lorax.loaded_file import LoadedFile, fresh_memory
from lorax.read import AdapterFiles, read_adapter
from lorax.weight_file import open_weight_file, write_weight_file
from tests.stand_ins.adapter_files import kohya_tensors, random_adapter, raw_safetensors, small_base

BASE = small_base()


def test_reading_into_given_memory_gives_the_same_numbers_and_casts_none(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    halves = {name: tensor.half() for name, tensor in kohya_tensors(random_adapter(BASE)).items()}
    write_weight_file(path, halves)
    given: list[torch.Tensor] = []

    def allocate(size: int) -> torch.Tensor:
        given.append(torch.empty(size, dtype=torch.uint8))
        return given[-1]

    usual = read_adapter(AdapterFiles(path), candidates=[BASE])
    direct = read_adapter(AdapterFiles(path), candidates=[BASE], into=allocate)

    assert direct.weights_sha256 == usual.weights_sha256
    assert direct.scales() == usual.scales()
    [body] = given
    for site, update in direct.low_rank().items():
        for factor, other in ((update.up, usual.low_rank()[site].up), (update.down, usual.low_rank()[site].down)):
            assert factor.dtype == torch.float16
            assert body.data_ptr() <= factor.data_ptr() < body.data_ptr() + len(body)
            assert torch.equal(factor.float(), other)
        assert torch.equal(update.dense(), usual.updates[site].dense())


@pytest.mark.parametrize("padding", [0, 1])
def test_tensors_that_lie_askew_are_read_all_the_same(padding: int, tmp_path: Path) -> None:
    numbers = torch.tensor([[1.0, -2.5]], dtype=torch.float16)
    content = bytes(padding) + numbers.numpy().tobytes()
    entries = {"odd": ("U8", [padding], 0, padding)} if padding else {}
    entries |= {"even": ("F16", [1, 2], padding, padding + 4)}
    described = {
        name: {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        for name, (dtype, shape, begin, end) in entries.items()
    }
    path = tmp_path / "odd.safetensors"
    path.write_bytes(raw_safetensors(json.dumps(described).encode(), content))

    file = open_weight_file(path)

    loaded = LoadedFile.of(file, fresh_memory)
    assert torch.equal(loaded.read("even"), numbers)
    assert torch.equal(file.read("even"), numbers)
    assert loaded.weights_sha256() == file.weights_sha256()


def test_a_file_that_changes_while_it_is_loaded_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_weight_file(path, {"a": torch.ones(4)})
    file = open_weight_file(path)

    def allocate(size: int) -> torch.Tensor:
        path.write_bytes(path.read_bytes()[:-4])
        return fresh_memory(size)

    with pytest.raises(TryLater) as raised:
        LoadedFile.of(file, allocate)

    assert raised.value.reason == "file-changed"
