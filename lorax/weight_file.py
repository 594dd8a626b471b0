"""The only door for weight files: bounded, checked, lazy reading and atomic, deterministic writing of safetensors.

Nothing here maps a file or opens a pickle. torch is imported only when a tensor is asked for.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lorax.errors import BadFile, TryLater
from lorax.safe_header import ReadLimits, TensorEntry, parse_header
from lorax.weight_output import (
    TORCH_NAMES,
    Stored,
    WrittenFile,
    element_type,
    weights_sha256,
    write_file,
    write_hashed,
    write_weight_file,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = [
    "FileHashes", "ReadLimits", "Stored", "TensorEntry", "WeightFile", "WrittenFile", "element_type",
    "open_weight_file", "refuse_pickle_name", "sha256_file", "weights_sha256", "write_file", "write_hashed",
    "write_weight_file",
]  # fmt: skip

PICKLE_SUFFIXES = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"})
_DEFAULT_LIMITS = ReadLimits()
_CHUNK_BYTES = 4 * 2**20
_FIRST_BYTES = 512
"""Are enough to tell what a file is that is no safetensors file."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Tells one state of one file from every other, as far as the file system can."""

    device: int
    inode: int
    size: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class FileHashes:
    """Holds the sha256 of a whole file, of the bytes after its header, and of each tensor's bytes; lower-case hex."""

    file: str
    weights: str
    tensors: Mapping[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class WeightFile:
    """Is a safetensors file whose header has been checked; tensors are read one at a time.

    tensors: in the order of their bytes; header_bytes: of the JSON, without the length before it.
    """

    path: Path
    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]
    header_bytes: int
    identity: Identity

    def read(self, name: str) -> Tensor:
        """Reads one tensor into memory of its own, in its own element type, wherever its bytes lie.

        Raises KeyError for a name the file does not list, TryLater when the file changed since it was opened.
        """
        import torch

        entry = self.tensors[name]
        content = torch.empty(entry.end - entry.begin, dtype=torch.uint8)
        self._fill(content.numpy().data, entry.begin, f"tensor {name!r}")
        return content.view(self.dtype(name)).reshape(entry.shape)

    @property
    def body_bytes(self) -> int:
        """Counts the bytes after the header."""
        return self.identity.size - 8 - self.header_bytes

    def read_body(self, into: memoryview) -> None:
        """Reads all bytes after the header, in large steps. Raises TryLater when the file changed, before or during."""
        self._fill(into, 8 + self.header_bytes, "the last tensor")

    def _fill(self, view: memoryview, begin: int, what: str) -> None:
        filled = 0
        with self.path.open("rb", buffering=0) as file:
            self._expect_unchanged(file.fileno())
            file.seek(begin)
            while filled < len(view) and (got := file.readinto(view[filled:])):
                filled += got
            self._expect_unchanged(file.fileno())
        if filled < len(view):
            raise TryLater("file-changed", f"{what} could not be read to its end", where=str(self.path))

    def weights_sha256(self) -> str:
        """Gives the sha256 of the bytes after the header: sd-scripts' sshs_model_hash, catalogues' AutoV3."""
        digest = hashlib.sha256()
        with self.path.open("rb", buffering=0) as file:
            self._expect_unchanged(file.fileno())
            body = 8 + self.header_bytes
            for chunk in _chunks(file.fileno(), body, self.identity.size, str(self.path)):
                digest.update(chunk)
        return digest.hexdigest()

    def dtype(self, name: str) -> torch.dtype:
        """Gives the element type of a tensor as torch calls it."""
        import torch

        found: torch.dtype = getattr(torch, TORCH_NAMES[self.tensors[name].dtype])
        return found

    def hashes(self) -> FileHashes:
        """Gives the sha256 of the file, of its body and of each tensor, reading every byte once."""
        whole, body = hashlib.sha256(), hashlib.sha256()
        tensors: dict[str, str] = {}
        with self.path.open("rb") as file:
            self._expect_unchanged(file.fileno())
            whole.update(file.read(8 + self.header_bytes))
            for name, entry in self.tensors.items():
                own = hashlib.sha256()
                for chunk in _chunks(file.fileno(), entry.begin, entry.end, str(self.path)):
                    for digest in (whole, body, own):
                        digest.update(chunk)
                tensors[name] = own.hexdigest()
        return FileHashes(whole.hexdigest(), body.hexdigest(), tensors)

    def _expect_unchanged(self, descriptor: int) -> None:
        if _identity(os.fstat(descriptor)) != self.identity:
            raise TryLater(
                "file-changed", "the file changed after its header was checked; run again", where=str(self.path)
            )


def open_weight_file(path: Path, *, limits: ReadLimits = _DEFAULT_LIMITS) -> WeightFile:
    """Opens a safetensors file and checks its header, at a bounded cost. Raises BadFile; never opens a pickle."""
    where = str(path)
    refuse_pickle_name(path.name, where=where)
    descriptor = _opened(path, where)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BadFile("not-safetensors", "this is not a regular file; a safetensors file is expected", where=where)
        size = _header_size(descriptor, status.st_size, limits, where)
        header = b"".join(_chunks(descriptor, 8, 8 + size, where))
    finally:
        os.close(descriptor)
    body_bytes = status.st_size - 8 - size
    tensors, metadata = parse_header(header, body_bytes=body_bytes, limits=limits, where=where)
    return WeightFile(path, tensors, metadata, size, _identity(status))


def _opened(path: Path, where: str) -> int:
    """A descriptor of the file, or of whatever else lies there. Raises BadFile where nothing can."""
    try:
        # Without O_NONBLOCK, opening a pipe would wait for a writer for ever.
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        raise BadFile("missing-weights", "there is no such file", where=where) from None
    except PermissionError:
        message = "the operating system does not let this file be read; change its permissions"
        raise BadFile("unreadable", message, where=where) from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            message = "the symbolic links there lead in a circle; name the file itself"
            raise BadFile("missing-weights", message, where=where) from None
        if error.errno == errno.ENXIO:
            message = "this is not a regular file but a socket or a device; a safetensors file is expected"
            raise BadFile("not-safetensors", message, where=where) from None
        raise


def refuse_pickle_name(name: str, *, where: str) -> None:
    """Raises BadFile when a file name ends as pickles do."""
    suffix = Path(name).suffix.lower()
    if suffix in PICKLE_SUFFIXES:
        advice = "opening it could run code; ask its author for a safetensors file"
        raise BadFile("pickle", f"files that end in {suffix} are pickles: {advice}", where=where)


def _header_size(descriptor: int, file_bytes: int, limits: ReadLimits, where: str) -> int:
    """The length of the header, once the first bytes have been found to be those of a safetensors file."""
    start = os.pread(descriptor, 9, 0)
    if not start:
        raise BadFile("empty-file", "the file holds no bytes; download it again", where=where)
    size = int.from_bytes(start[:8], "little")
    # A header of 640 bytes begins like a pickle and one of 8508 like "<!", so a possible header is looked for first.
    opens = start[8:] == b"{"
    if not opens or size > limits.header_bytes:
        _refuse_other_formats(os.pread(descriptor, _FIRST_BYTES, 0), where)
    if len(start) < 8:
        raise BadFile("truncated", f"the file holds {file_bytes} bytes; the header's length alone takes 8", where=where)
    if size > limits.header_bytes and not opens:
        seen = f"the file starts with {start!r}; the length of a header and a brace are expected"
        raise BadFile("not-safetensors", seen, where=where)
    if size > limits.header_bytes:
        rule = f"at most {limits.header_bytes} are read"
        raise BadFile("header-too-large", f"the header claims {size} bytes; {rule}", where=where)
    if size > file_bytes - 8:
        rule = f"{file_bytes - 8} follow; download it again"
        raise BadFile("truncated", f"the header claims {size} bytes, {rule}", where=where)
    return size


_OLD_PICKLE = re.compile(rb"\([dlt]?p\d+\n|c[A-Za-z_][\w.]*\n[A-Za-z_]\w*\n|[}\])]q\0")


def _refuse_other_formats(start: bytes, where: str) -> None:
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"<") and text[1:2].strip(b"\0"):
        advice = "the download was answered by a web page; download it again, logged in if the site asks for it"
        raise BadFile("html-page", f"the file starts with {start[:24]!r}: {advice}", where=where)
    if _is_pickle(start):
        advice = "it is never opened; ask its author for a safetensors file"
        raise BadFile("pickle", f"the file starts with {start[:4]!r}, a pickle: {advice}", where=where)
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start) or start.startswith((b"\x1f\x8b", b"GGUF")):
        raise BadFile(
            "not-safetensors", f"the file starts with {start[:16]!r}; a safetensors header is expected", where=where
        )


def _is_pickle(start: bytes) -> bool:
    """Whether a file starts as pickles do: torch's zip and tar, a marked protocol, or one of those without a mark."""
    marked = start[:1] == b"\x80" and start[1:2] <= b"\x05" and start[2:8].strip(b"\0")
    return bool(start.startswith(b"PK") or marked or start[257:262] == b"ustar" or _OLD_PICKLE.match(start))


def sha256_file(path: Path) -> str:
    """Gives the sha256 of a file's bytes, lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _chunks(descriptor: int, begin: int, end: int, where: str) -> Iterator[bytes]:
    while begin < end:
        chunk = os.pread(descriptor, min(_CHUNK_BYTES, end - begin), begin)
        if not chunk:
            raise TryLater("file-changed", "the file became shorter while it was being read; run again", where=where)
        begin += len(chunk)
        yield chunk


def _identity(status: os.stat_result) -> Identity:
    return Identity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
