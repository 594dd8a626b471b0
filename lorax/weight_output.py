"""The writing half of weight_file: atomic, deterministic safetensors files, hashed while they are written.

Bytes go from the tensors to the disk without a copy on the way; threads feed the hashes meanwhile, for hashing takes
longer than writing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from lorax.safe_header import ELEMENT_BYTES

if TYPE_CHECKING:
    from concurrent.futures import Future

    import torch
    from torch import Tensor

Piece = bytes | memoryview
_BATCH_BYTES = 8 * 2**20
_BATCH_PIECES = 512
"""Half of what one system call takes on Linux."""
TORCH_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
"""Element types as torch calls them."""
_NO_HASH = "0" * 64
# The order in which the official writer lays tensors out: widest first, so that every tensor is aligned.
_LAYOUT = ("I64", "F64", "F32", "I32", "BF16", "F16", "I16", "F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL")


class Digest(Protocol):
    """Is a hash on its way, as hashlib makes them."""

    def update(self, data: Piece, /) -> None:
        """Takes more bytes."""
        ...


class Stored(Protocol):
    """Stands in for a tensor that is read when its turn to be written comes, and kept by nobody."""

    @property
    def dtype(self) -> torch.dtype:
        """Gives the element type."""
        ...

    @property
    def shape(self) -> Sequence[int]:
        """Gives the sizes."""
        ...

    def numel(self) -> int:
        """Counts the elements."""
        ...

    def read(self) -> Tensor:
        """Gives the tensor itself."""
        ...


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """Tells what lies on the disk now, so that nobody has to read it back for that.

    sha256: of the whole file; weights_sha256: of the bytes after the header of a weight file, "" for other files.
    """

    path: Path
    sha256: str
    weights_sha256: str
    size: int


_Source = TypeVar("_Source", bound="Tensor | Stored")


def write_weight_file(path: Path, tensors: Mapping[str, Tensor | Stored], *, metadata: Mapping[str, str] = {}) -> str:
    """Writes a safetensors file in one atomic step and gives the sha256 of the whole file.

    The bytes depend on the arguments alone: tensors lie widest element type first, then by name, as the official
    writer lays them out; metadata is sorted. Tensors that are not contiguous are copied, and those that are still
    stored are read, some megabytes at a time. Raises ValueError for an element type that the format has no name for,
    OSError when the disk refuses; then no file is left behind.
    """
    ordered = _laid_out(tensors)
    return write_file(path, chain([_start(_described(ordered), metadata)], map(_bytes_of, ordered.values())))


def write_file(path: Path, pieces: Iterable[Piece]) -> str:
    """Writes a file that appears at once and whole, on the disk and in its folder, and gives its sha256."""
    digest = hashlib.sha256()
    with _appearing(path) as descriptor:
        _pour(descriptor, pieces, [digest])
        os.fsync(descriptor)
    return digest.hexdigest()


def write_hashed(
    path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] = {}, hash_entry: str = ""
) -> WrittenFile:
    """Writes a safetensors file as write_weight_file does, all of it in memory, and tells both of its hashes.

    hash_entry: the key of a header entry that is to hold the sha256 of the bytes after the header, "" for none.
    """
    ordered = _laid_out(tensors)
    pieces = list(map(_bytes_of, ordered.values()))
    described = _described(ordered)
    entries = {**metadata, hash_entry: _NO_HASH} if hash_entry else metadata
    start = _start(described, entries)
    whole, weights = hashlib.sha256(), hashlib.sha256()
    with _appearing(path) as descriptor:
        if not hash_entry:
            whole.update(start)
        # A header is as long without the hash that it will hold, so the place of the weights is known.
        os.lseek(descriptor, len(start), os.SEEK_SET)
        _pour(descriptor, pieces, [weights] if hash_entry else [weights, whole])
        if hash_entry:
            start = _start(described, {**entries, hash_entry: weights.hexdigest()})
        os.pwrite(descriptor, start, 0)
        with _meanwhile(1) as elsewhere:
            synced = elsewhere(os.fsync, descriptor)
            if hash_entry:
                _feed(whole, [start, *pieces])
            synced.result()
    return WrittenFile(path, whole.hexdigest(), weights.hexdigest(), len(start) + sum(map(len, pieces)))


def weights_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Gives the sha256 that the bytes after the header will have once the tensors are written."""
    digest = hashlib.sha256()
    _feed(digest, map(_bytes_of, _laid_out(tensors).values()))
    return digest.hexdigest()


@cache
def element_type(dtype: torch.dtype) -> str:
    """Gives safetensors' name of a torch element type. Raises ValueError when there is none."""
    short = str(dtype).removeprefix("torch.")
    for name, torch_name in TORCH_NAMES.items():
        if torch_name == short:
            return name
    raise ValueError(
        f"{dtype} has no name in safetensors files written here; cast the tensor to one of {sorted(TORCH_NAMES)}"
    )


def _laid_out(tensors: Mapping[str, _Source]) -> dict[str, _Source]:
    kinds = {dtype: _LAYOUT.index(element_type(dtype)) for dtype in {tensor.dtype for tensor in tensors.values()}}
    keys = {name: (kinds[tensor.dtype], name) for name, tensor in tensors.items()}
    return {name: tensors[name] for name in sorted(tensors, key=keys.__getitem__)}


def _described(ordered: Mapping[str, _Source]) -> str:
    """What the header says of the tensors, without the braces around it."""
    fields: dict[str, object] = {}
    position = 0
    for name, tensor in ordered.items():
        dtype = element_type(tensor.dtype)
        end = position + tensor.numel() * ELEMENT_BYTES[dtype]
        fields[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    return _compact(fields)[1:-1]


def _start(described: str, metadata: Mapping[str, str]) -> bytes:
    """What comes before the weights: the length of the header and the header, padded to whole eights."""
    own = _compact({"__metadata__": dict(sorted(metadata.items()))})[1:-1] if metadata else ""
    header = f"{{{','.join(part for part in (own, described) if part)}}}".encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header


def _compact(fields: Mapping[str, object]) -> str:
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False)


def _bytes_of(source: _Source) -> memoryview:
    import torch

    tensor = source if isinstance(source, torch.Tensor) else source.read()
    # A tensor without dimensions cannot be viewed as bytes, one with a single dimension can.
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


@contextmanager
def _appearing(path: Path) -> Iterator[int]:
    """Gives the descriptor of a new file, which has its name once the block, which has to sync it, has ended well."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.part")
    try:
        with partial.open("xb", buffering=0) as file:
            yield file.fileno()
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _pour(descriptor: int, pieces: Iterable[Piece], digests: Sequence[Digest]) -> None:
    """Writes pieces one after the other, while threads feed them to the digests."""
    with _meanwhile(len(digests)) as elsewhere:
        for batch in _batches(pieces):
            fed = [elsewhere(_feed, digest, batch) for digest in digests]
            _write(descriptor, batch)
            for each in fed:
                each.result()


def _batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece)
        if size >= _BATCH_BYTES or len(batch) == _BATCH_PIECES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _write(descriptor: int, pieces: Sequence[Piece]) -> None:
    left = [memoryview(piece) for piece in pieces if len(piece)]
    while left:
        written = os.writev(descriptor, left)
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if written:
            left[0] = left[0][written:]


def _feed(digest: Digest, pieces: Iterable[Piece]) -> None:
    for piece in pieces:
        digest.update(piece)


@contextmanager
def _meanwhile(threads: int) -> Iterator[Callable[..., Future[None]]]:
    """Gives what runs a function in another thread; the block ends when all have."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(threads) as pool:
        yield pool.submit


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
