from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lorax.errors import BadFile, TryLater
from lorax.weight_file import (
    ReadLimits,
    WrittenFile,
    open_weight_file,
    sha256_file,
    weights_sha256,
    write_file,
    write_hashed,
    write_weight_file,
)
from tests.stand_ins.adapter_files import raw_safetensors

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2,
]  # fmt: skip


def of_every_dtype() -> dict[str, torch.Tensor]:
    values = torch.tensor([[0.0, 1.0, 0.5], [2.0, 3.0, 1.5]])
    return {f"tensor of {dtype}": values.to(dtype) for dtype in DTYPES} | {"alpha": torch.tensor(4.0)}


def test_tensors_of_every_type_come_back_as_they_were_written(tmp_path: Path) -> None:
    tensors = of_every_dtype()

    write_weight_file(tmp_path / "all.safetensors", tensors, metadata={"ss_note": "ünï"})
    file = open_weight_file(tmp_path / "all.safetensors")

    assert file.metadata == {"ss_note": "ünï"}
    assert file.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        found = file.read(name)
        assert found.dtype == tensor.dtype == file.dtype(name)
        assert found.shape == tensor.shape
        assert bytes(found.reshape(-1).view(torch.uint8)) == bytes(tensor.reshape(-1).view(torch.uint8))


def test_the_bytes_are_those_of_the_official_writer(tmp_path: Path) -> None:
    tensors = of_every_dtype()
    save_file(tensors, tmp_path / "official.safetensors", metadata={"format": "pt"})

    digest = write_weight_file(tmp_path / "own.safetensors", tensors, metadata={"format": "pt"})

    assert (tmp_path / "own.safetensors").read_bytes() == (tmp_path / "official.safetensors").read_bytes()
    assert digest == sha256_file(tmp_path / "own.safetensors")


def test_the_bytes_do_not_depend_on_the_order_of_tensors_or_metadata(tmp_path: Path) -> None:
    tensors, metadata = of_every_dtype(), {"b": "2", "a": "1"}

    first = write_weight_file(tmp_path / "1.safetensors", tensors, metadata=metadata)
    backwards = dict(reversed(tensors.items()))
    second = write_weight_file(tmp_path / "2.safetensors", backwards, metadata=dict(reversed(metadata.items())))

    assert first == second


def test_what_is_written_opens_in_safetensors(tmp_path: Path) -> None:
    write_weight_file(tmp_path / "own.safetensors", of_every_dtype(), metadata={"a": "1", "b": "2"})

    with safe_open(tmp_path / "own.safetensors", "pt") as official:
        assert official.metadata() == {"a": "1", "b": "2"}
    for name, tensor in load_file(tmp_path / "own.safetensors").items():
        assert torch.equal(tensor.double(), of_every_dtype()[name].double())


def test_tensors_that_share_memory_or_are_transposed_are_written_whole(tmp_path: Path) -> None:
    shared = torch.arange(6.0).reshape(2, 3)

    write_weight_file(tmp_path / "own.safetensors", {"a": shared, "b": shared.T, "c": shared[:, 1]})
    file = open_weight_file(tmp_path / "own.safetensors")

    assert torch.equal(file.read("b"), shared.T)
    assert torch.equal(file.read("c"), shared[:, 1])


def test_a_header_of_odd_length_is_legal_and_its_tensors_are_read_unaligned(tmp_path: Path) -> None:
    values = torch.tensor([1.0, -2.0, 3.5])
    header = json.dumps({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}).encode()
    odd = header + b" " * (3 - len(header) % 8 if len(header) % 8 < 3 else 11 - len(header) % 8)
    path = tmp_path / "odd.safetensors"
    path.write_bytes(raw_safetensors(odd, values.numpy().tobytes()))

    assert len(odd) % 8 == 3
    assert torch.equal(open_weight_file(path).read("a"), values)


@pytest.mark.parametrize("length", [0x280, 0x380, 0x480, 0x580, 0x213C, 0x4B50])
def test_header_lengths_that_look_like_a_pickle_or_a_page_are_no_offence(length: int, tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    path = tmp_path / "looks.safetensors"
    path.write_bytes(raw_safetensors(header.ljust(length), b"\7"))

    assert open_weight_file(path).read("a").tolist() == [7]


def test_hashes_are_those_of_the_bytes(tmp_path: Path) -> None:
    tensors = of_every_dtype()
    path = tmp_path / "own.safetensors"
    write_weight_file(path, tensors)
    content, file = path.read_bytes(), open_weight_file(path)
    body = content[8 + file.header_bytes :]

    hashes = file.hashes()

    assert hashes.file == hashlib.sha256(content).hexdigest()
    assert hashes.weights == file.weights_sha256() == weights_sha256(tensors) == hashlib.sha256(body).hexdigest()
    for name, entry in file.tensors.items():
        assert hashes.tensors[name] == hashlib.sha256(content[entry.begin : entry.end]).hexdigest()


@pytest.mark.parametrize("entry", ["", "the hash"])
def test_both_hashes_are_told_and_the_bytes_are_those_of_the_plain_writer(entry: str, tmp_path: Path) -> None:
    tensors = {**of_every_dtype(), "large": torch.randn(3000, 2000), "turned": torch.randn(700, 500).T}
    metadata = {"b": "1", "the hash": "old", "zeros": "0" * 64}

    found = write_hashed(tmp_path / "own.safetensors", tensors, metadata=metadata, hash_entry=entry)

    weights = weights_sha256(tensors)
    plain = {**metadata, entry: weights} if entry else metadata
    assert found.sha256 == write_weight_file(tmp_path / "plain.safetensors", tensors, metadata=plain)
    assert found.path.read_bytes() == (tmp_path / "plain.safetensors").read_bytes()
    assert found == WrittenFile(
        tmp_path / "own.safetensors", sha256_file(found.path), weights, found.path.stat().st_size
    )


def test_stored_tensors_are_read_some_megabytes_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []
    writev = os.writev

    class OnDisk:
        dtype = torch.float32
        shape = (1024, 1024)

        def numel(self) -> int:
            return 2**20

        def read(self) -> torch.Tensor:
            happened.append("r")
            return torch.ones(self.shape)

    def noted(descriptor: int, pieces: list[memoryview]) -> int:
        happened.append("w")
        return writev(descriptor, pieces)

    names = [f"{index:02d}" for index in range(16)]
    expected = write_weight_file(tmp_path / "a.safetensors", dict.fromkeys(names, torch.ones(1024, 1024)))
    monkeypatch.setattr(os, "writev", noted)

    assert write_weight_file(tmp_path / "b.safetensors", {name: OnDisk() for name in names}) == expected
    assert happened.count("r") == 16
    assert "rrr" not in "".join(happened)


def test_a_disk_that_is_full_when_the_file_is_synced_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for write in (write_weight_file, write_hashed):
        with pytest.raises(OSError, match="No space"):
            write(tmp_path / "own.safetensors", {"a": torch.ones(4)})

    assert list(tmp_path.iterdir()) == []


def test_a_system_that_writes_less_than_asked_gets_the_rest_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = write_weight_file(tmp_path / "a.safetensors", of_every_dtype())
    writev = os.writev
    monkeypatch.setattr(os, "writev", lambda descriptor, pieces: writev(descriptor, [memoryview(pieces[0])[:3]]))

    write_weight_file(tmp_path / "b.safetensors", of_every_dtype())

    assert sha256_file(tmp_path / "b.safetensors") == expected


def test_a_file_that_changes_after_it_was_opened_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    write_weight_file(path, {"a": torch.ones(4)})
    file = open_weight_file(path)

    write_weight_file(path, {"a": torch.zeros(4)})

    for read in (lambda: file.read("a"), file.hashes, file.weights_sha256):
        with pytest.raises(TryLater) as raised:
            read()
        assert raised.value.reason == "file-changed"


def test_nothing_is_left_behind_when_writing_fails(tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"the first"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_file(tmp_path / "own.bin", pieces())
    with pytest.raises(ValueError, match="complex64"):
        write_weight_file(tmp_path / "own.safetensors", {"a": torch.ones(2, dtype=torch.complex64)})

    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    write_weight_file(path, {"a": torch.ones(4)})
    before = path.open("rb")

    write_weight_file(path, {"a": torch.zeros(4)})

    with before:
        assert hashlib.sha256(before.read()).hexdigest() != sha256_file(path)
    assert [file.name for file in tmp_path.iterdir()] == ["own.safetensors"]


def test_headers_are_read_without_torch(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    write_weight_file(path, {"a": torch.ones(4)})
    program = (
        "import sys, pathlib; from lorax.weight_file import open_weight_file; "
        "file = open_weight_file(pathlib.Path(sys.argv[1])); file.weights_sha256(); "
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules; print(list(file.tensors))"
    )

    found = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)

    assert found.stdout == "['a']\n"


def test_a_pipe_and_a_folder_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()

    for name in ("pipe.safetensors", "folder.safetensors"):
        with pytest.raises(BadFile) as raised:
            open_weight_file(tmp_path / name)
        assert raised.value.reason == "not-safetensors"


def test_opening_reads_the_header_and_no_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "own.safetensors"
    write_weight_file(path, {"a": torch.ones(1_000_000)})
    asked, pread = [], os.pread

    def counting(descriptor: int, length: int, offset: int) -> bytes:
        asked.append(pread(descriptor, length, offset))
        return asked[-1]

    monkeypatch.setattr(os, "pread", counting)
    file = open_weight_file(path)

    assert sum(map(len, asked)) <= 8 + file.header_bytes + 1
    assert path.stat().st_size > 4_000_000


def test_a_file_that_shrinks_while_its_header_is_read_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "own.safetensors"
    write_weight_file(path, {"a": torch.ones(4)})
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda descriptor, length, at: pread(descriptor, length, at) if at == 0 else b"")

    with pytest.raises(TryLater) as raised:
        open_weight_file(path)

    assert (raised.value.reason, raised.value.where) == ("file-changed", str(path))


def test_a_file_that_may_not_be_read_is_refused_for_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)

    with pytest.raises(BadFile, match="permissions") as raised:
        open_weight_file(tmp_path / "own.safetensors")

    assert raised.value.reason == "unreadable"


def test_every_legal_spelling_of_a_header_is_read(tmp_path: Path) -> None:
    header = """{ "\\u00e9\\ud83d\\ude00 \\"x\\"" : {
        "data_offsets":[ 1 , 3 ],"shape" : [ 1,\t1 ] ,"dtype":"F16"} ,
        "__metadata__": {"ключ": "значение", "a\\n": "\\\\\\"\\u0000", "": "" },
        "字": {"shape":[],"dtype":"U8","data_offsets":[0,1]}
    }   """
    path = tmp_path / "odd.safetensors"
    path.write_bytes(raw_safetensors(header.encode(), bytes(3)))

    file = open_weight_file(path)

    assert [(entry.name, entry.dtype, entry.shape) for entry in file.tensors.values()] == [
        ("字", "U8", ()),
        ('é😀 "x"', "F16", (1, 1)),
    ]
    assert file.metadata == {"ключ": "значение", "a\n": '\\"\0', "": ""}
    with safe_open(path, "pt") as official:
        assert set(official.keys()) == set(file.tensors)
        assert official.metadata() == file.metadata


@pytest.mark.parametrize("header", ["{}", "{ }", '{"__metadata__":{}}', '{"__metadata__":{"a":"b"}}  '])
def test_a_file_may_hold_no_tensor(header: str, tmp_path: Path) -> None:
    path = tmp_path / "none.safetensors"
    path.write_bytes(raw_safetensors(header.encode()))

    assert open_weight_file(path).tensors == {}


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (ReadLimits(header_bytes=100), "header-too-large"),
        (ReadLimits(tensors=2), "too-many-tensors"),
        (ReadLimits(metadata_entries=1), "header-invalid"),
        (ReadLimits(dimensions=1), "bad-shape"),
        (ReadLimits(name_bytes=4), "bad-name"),
    ],
)
def test_each_limit_can_be_moved(limits: ReadLimits, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    tensors = {name: torch.ones(1, 1) for name in ("one", "two", "three")}
    write_weight_file(path, tensors, metadata={"a": "1", "b": "2"})

    assert open_weight_file(path).tensors.keys() == tensors.keys()
    with pytest.raises(BadFile) as raised:
        open_weight_file(path, limits=limits)
    assert raised.value.reason == reason


def test_an_adapter_of_a_mixture_of_experts_has_few_enough_tensors(tmp_path: Path) -> None:
    names = [
        f"base_model.model.model.layers.{layer}.mlp.experts.{expert}.{part}_proj.lora_{side}.weight"
        for layer in range(48)
        for expert in range(128)
        for part in ("gate", "up", "down")
        for side in "AB"
    ]
    header = {
        name: {"dtype": "U8", "shape": [1], "data_offsets": [place, place + 1]} for place, name in enumerate(names)
    }
    path = tmp_path / "experts.safetensors"
    path.write_bytes(raw_safetensors(header, bytes(len(names))))

    assert list(open_weight_file(path).tensors) == names
