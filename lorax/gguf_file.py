"""The header of a GGUF file (llama.cpp, versions 2 and 3), read at a bounded cost, and its tensors.

Only what a base model needs is kept of the metadata: single values and short lists of numbers. The vocabulary, most of
the header, is passed over.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from lorax.errors import BadFile
from lorax.gguf_types import BLOCKS, PLAIN, SIZES
from lorax.quantisations import QUANTISATIONS
from lorax.safe_header import ELEMENT_BYTES, TensorEntry
from lorax.stored import Plain, Quantised, Stored
from lorax.weight_file import Identity, WeightFile

MAGIC = b"GGUF"
_MOST_HEADER_BYTES = 128 * 2**20
_MOST_TENSORS, _MOST_VALUES, _MOST_TEXT, _KEPT = 40_000, 100_000, 2**24, 8
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
_AGAIN = "download the file again"

Value = int | float | str | tuple[int | float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class GgufFile:
    """Is an open GGUF file: its metadata, and its tensors as parameters by their names in the file."""

    file: WeightFile
    metadata: Mapping[str, Value]
    parameters: Mapping[str, Stored]

    def number(self, key: str, default: int) -> int:
        """Gives a whole number of the metadata."""
        found = self.metadata.get(key, default)
        return found if isinstance(found, int) else default

    @property
    def architecture(self) -> str:
        """Gives what the file says that the model is, such as llama, qwen2 or flux."""
        return str(self.metadata.get("general.architecture", ""))


def is_gguf(path: Path) -> bool:
    """Tells whether a file begins as GGUF files do."""
    try:
        with path.open("rb") as file:
            return file.read(4) == MAGIC
    except OSError:
        return False


def open_gguf(path: Path) -> GgufFile:
    """Opens a GGUF file and checks its header. Raises BadFile, also for a type of numbers that is not read here."""
    with path.open("rb") as stream:
        status = os.fstat(stream.fileno())
        header = _Header(stream.read(_MOST_HEADER_BYTES), str(path), status.st_size)
    header.read()
    start = -(-header.position // header.alignment) * header.alignment
    identity = Identity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    file = WeightFile(path, {}, {}, start - 8, identity)
    parameters = {tensor.name: _parameter(tensor, file, header, start) for tensor in header.tensors}
    _refuse_overlap(parameters, header)
    return GgufFile(file, header.metadata, parameters)


def _refuse_overlap(parameters: Mapping[str, Stored], header: _Header) -> None:
    position = 0
    entries = (piece.entry for stored in parameters.values() for piece in stored.pieces())
    for entry in sorted(entries, key=lambda entry: entry.begin):
        if entry.begin < position:
            raise header.bad("bad-span", f"tensor {entry.name!r} overlaps the tensor before it; {_AGAIN}")
        position = entry.end


@dataclass(frozen=True, slots=True)
class _Tensor:
    """Is a tensor as the header describes it; shape: slowest dimension first, as everywhere else."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


def _parameter(tensor: _Tensor, file: WeightFile, header: _Header, start: int) -> Stored:
    original = header.metadata.get(f"comfy.gguf.orig_shape.{tensor.name}")
    shape = tuple(int(size) for size in original) if isinstance(original, tuple) else tensor.shape
    if prod(shape) != prod(tensor.shape):
        raise header.bad("bad-shape", f"tensor {tensor.name!r} is {list(tensor.shape)} and was {list(shape)}")
    if (dtype := PLAIN.get(tensor.kind)) is not None:
        size = prod(shape) * ELEMENT_BYTES[dtype]
        return Plain(file, _entry(tensor, dtype, shape, size, header, start))
    block = SIZES.get(BLOCKS.get(tensor.kind, ""))
    if block is None or tensor.shape[-1] % block.numbers:
        kind = BLOCKS.get(tensor.kind, f"number {tensor.kind}")
        expected = f"read are F32, F16, BF16, {', '.join(SIZES)}; take another quantisation of the model"
        raise header.bad("bad-dtype", f"tensor {tensor.name!r} {list(tensor.shape)} is of type {kind}; {expected}")
    size = prod(shape) // block.numbers * block.size
    plain = Plain(file, _entry(tensor, "U8", (size,), size, header, start))
    settings = {"type": BLOCKS[tensor.kind], "shape": shape}
    return Quantised(QUANTISATIONS["gguf"], {"ggml_blocks": plain}, settings, shape)


def _entry(tensor: _Tensor, dtype: str, shape: tuple[int, ...], size: int, header: _Header, start: int) -> TensorEntry:
    begin = start + tensor.offset
    if begin + size > header.file_bytes:
        rule = f"the file has {header.file_bytes}; {_AGAIN}"
        raise header.bad("truncated", f"tensor {tensor.name!r} ends at byte {begin + size}, {rule}")
    return TensorEntry(tensor.name, dtype, shape, begin, begin + size)


@dataclass(slots=True)
class _Header:
    """Reads the header from its bytes; position: where reading has come to, at first behind the format's name."""

    content: bytes
    where: str
    file_bytes: int
    position: int = 4
    metadata: dict[str, Value] = field(default_factory=dict)
    tensors: list[_Tensor] = field(default_factory=list)

    @property
    def alignment(self) -> int:
        found = self.metadata.get("general.alignment", 32)
        if not isinstance(found, int) or found < 8 or found > 2**16 or found & (found - 1):
            raise self.bad("header-invalid", f"general.alignment is {found!r}")
        return found

    def bad(self, reason: str, message: str) -> BadFile:
        return BadFile(reason, message, where=self.where)

    def read(self) -> None:
        if self.content[:4] != MAGIC:
            raise self.bad("header-invalid", f"the file starts with {self.content[:4]!r}, expected is {MAGIC!r}")
        version = self.scalar("I")
        if version not in {2, 3}:
            advice = "convert the model anew with llama.cpp (big-endian files are not read)"
            raise self.bad("header-invalid", f"GGUF version {version}; read are 2 and 3; {advice}")
        tensors, values = self.count(_MOST_TENSORS, "tensors"), self.count(_MOST_VALUES, "values")
        for _ in range(values):
            key = self.text()
            if (value := self.value(self.scalar("I"))) is not None:
                self.metadata[key] = value
        self.tensors = [self.tensor() for _ in range(tensors)]
        if len({tensor.name for tensor in self.tensors}) < tensors:
            raise self.bad("duplicate-tensor", "two tensors have the same name")

    def tensor(self) -> _Tensor:
        name = self.text()
        dimensions = self.scalar("I")
        if not 1 <= dimensions <= 5:
            raise self.bad("bad-shape", f"tensor {name!r} has {dimensions} dimensions; 1 to 5 are expected")
        shape = tuple(self.scalar("Q") for _ in range(dimensions))[::-1]
        kind, offset = self.scalar("I"), self.scalar("Q")
        if 0 in shape or prod(shape) > 2**48 or not name.isprintable():
            raise self.bad("bad-shape", f"tensor {name!r} has shape {list(shape)}")
        return _Tensor(name, shape, kind, offset)

    def value(self, kind: int) -> Value | None:
        if kind == _TEXT:
            return self.text()
        if kind == _ARRAY:
            return self.array()
        return self.scalar(self.code(kind))

    def array(self) -> tuple[int | float, ...] | None:
        """Numbers of a short list; longer lists and texts are passed over."""
        kind, length = self.scalar("I"), self.count(_MOST_TEXT, "entries of a list")
        if kind == _TEXT:
            for _ in range(length):
                self.take(self.count(_MOST_TEXT, "bytes of a text"))
            return None
        code = self.code(kind)
        if length > _KEPT:
            self.take(length * struct.calcsize(f"<{code}"))
            return None
        return tuple(self.scalar(code) for _ in range(length))

    def code(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise self.bad("header-invalid", f"a value of the metadata is of type {kind}, which is not known")
        return _SCALARS[kind]

    def text(self) -> str:
        return self.take(self.count(_MOST_TEXT, "bytes of a text")).decode("utf-8", "backslashreplace")

    def count(self, most: int, what: str) -> int:
        found = self.scalar("Q")
        if found > most:
            raise self.bad("header-invalid", f"the header claims {found} {what}; at most {most} are read")
        return found

    def scalar(self, code: str) -> int:
        (found,) = struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))
        return found  # type: ignore[no-any-return]

    def take(self, size: int) -> bytes:
        end = self.position + size
        if end > len(self.content):
            raise self.bad("truncated", f"the header does not end within {len(self.content)} bytes; {_AGAIN}")
        found = self.content[self.position : end]
        self.position = end
        return found
