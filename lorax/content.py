"""The sha256 of the files of a base model and of each parameter in them, every byte read once.

Two hashes are taken of most bytes, of the file and of the parameter, so they are taken side by side on two cores.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import BinaryIO

from lorax.errors import TryLater
from lorax.stored import Plain, Stored
from lorax.weight_file import Identity, WeightFile

_CHUNK_BYTES = 4 * 2**20
Span = tuple[int, int]
"""Begin and end of some bytes of a file."""


@dataclass(frozen=True, slots=True)
class ContentHashes:
    """Holds the sha256 of files, in the order of their paths, and of the pieces that parameters are made of."""

    files: tuple[str, ...]
    _pieces: Mapping[int, Mapping[Span, str]] = field(repr=False)

    @classmethod
    def of(cls, files: Iterable[WeightFile], parameters: Iterable[Stored]) -> ContentHashes:
        """Reads the files. Raises TryLater when one of them changed since it was opened."""
        wanted: dict[int, set[Span]] = {}
        for parameter in parameters:
            for piece in parameter.pieces():
                wanted.setdefault(id(piece.file), set()).add((piece.entry.begin, piece.entry.end))
        found = {file: _hashed(file, wanted.get(id(file), set())) for file in sorted(files, key=lambda one: one.path)}
        whole = tuple(sha256 for sha256, _ in found.values())
        return cls(whole, {id(file): pieces for file, (_, pieces) in found.items()})

    def __call__(self, piece: Plain) -> str:
        """Gives the sha256 of the bytes of a piece of a parameter."""
        return self._pieces[id(piece.file)][piece.entry.begin, piece.entry.end]


def _hashed(file: WeightFile, pieces: set[Span]) -> tuple[str, dict[Span, str]]:
    """The sha256 of a file and of some spans of it, which do not overlap."""
    whole = hashlib.sha256()
    found: dict[Span, str] = {}
    with file.path.open("rb", buffering=0) as stream, ThreadPoolExecutor(1) as aside:
        _expect_unchanged(file, stream)
        pending: Future[None] | None = None
        for span in _tiles(pieces, file.identity.size):
            own = hashlib.sha256()
            for chunk in _chunks(stream, span, file):
                if pending is not None:
                    pending.result()
                pending = aside.submit(whole.update, chunk)
                if span in pieces:
                    own.update(chunk)
            found[span] = own.hexdigest()
        _expect_unchanged(file, stream)
    return whole.hexdigest(), {span: found[span] for span in pieces}


def _tiles(pieces: set[Span], size: int) -> Iterator[Span]:
    """All bytes of a file in their order: the pieces, and what lies between them."""
    position = 0
    for begin, end in [*sorted(pieces), (size, size)]:
        if begin > position:
            yield position, begin
        if end > begin:
            yield begin, end
        position = end


def _chunks(stream: BinaryIO, span: Span, file: WeightFile) -> Iterator[bytes]:
    begin, end = span
    while begin < end:
        chunk = os.pread(stream.fileno(), min(_CHUNK_BYTES, end - begin), begin)
        if not chunk:
            raise _changed(file)
        begin += len(chunk)
        yield chunk


def _expect_unchanged(file: WeightFile, stream: BinaryIO) -> None:
    status = os.fstat(stream.fileno())
    if Identity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns) != file.identity:
        raise _changed(file)


def _changed(file: WeightFile) -> TryLater:
    return TryLater("file-changed", "the file changed after its header was checked; run again", where=str(file.path))
