"""Hashes of files and of parts of tensors are those of their bytes, whatever lies between the parts."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from lorax.content import ContentHashes
from lorax.errors import TryLater
from lorax.stored import Plain, swapped, transposed
from lorax.weight_file import open_weight_file, write_weight_file


def sha256(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(1200, 1000, generator=generator) for name in ("fused", "left out", "whole")}
    write_weight_file(tmp_path / "some.safetensors", tensors)
    return tmp_path / "some.safetensors"


def test_rows_halves_and_transposes_have_the_content_that_a_file_of_their_own_would_have(path: Path) -> None:
    file = open_weight_file(path)
    fused, whole = Plain(file, file.tensors["fused"]), Plain(file, file.tensors["whole"])
    parameters = [fused.rows(0, 400), fused.rows(800, 1200), swapped(fused.rows(400, 800)), transposed(whole)]

    hashes = ContentHashes.of([file], parameters)

    assert hashes.files == (hashlib.sha256(path.read_bytes()).hexdigest(),)
    for parameter in parameters:
        assert parameter.content(hashes) == sha256(parameter.read())
    assert len({parameter.content(hashes) for parameter in parameters}) == 4


def test_a_file_that_changed_since_it_was_opened_is_not_hashed(path: Path) -> None:
    file = open_weight_file(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content[:-4])

    with pytest.raises(TryLater, match="changed"):
        ContentHashes.of([file], [])
