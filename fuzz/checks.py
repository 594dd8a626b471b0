"""What has to hold for any bytes that are opened as a weight file, and the files that a fuzzer starts from."""

from __future__ import annotations

import os
import tracemalloc
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from random import Random

from safetensors import SafetensorError, deserialize, safe_open

from lorax.errors import REASONS, BadFile
from lorax.weight_file import WeightFile, open_weight_file
from tests.hostile.makers import every_small_file
from tests.hostile.oracle import is_sound
from tests.hostile.random_files import random_file

_LONGEST_MESSAGE = 1500
_MEMORY_BASE, _MEMORY_PER_BYTE = 2**18, 200
_EVERY = 64
"""One file in so many is opened a second time under a watch on its memory, which is slow."""
_SEEDS = 200


class FindingError(AssertionError):
    """Says which promise some bytes have broken."""


def check_weight_file(content: bytes) -> bool:
    """Opens bytes as a weight file and returns whether they pass.

    Raises FindingError unless they are refused with a known reason, or accepted with the names, shapes, bytes and
    metadata that safetensors finds in them, and an independent check agrees.
    """
    with _file_of(content) as path:
        if zlib.crc32(content) % _EVERY == 0:
            _check_memory(path, len(content))
        file = _opened(path)
        # Escapes in field names are legal JSON that nobody writes; the header check refuses them, the oracle does not.
        if (file is not None) != is_sound(content) and not (file is None and b"\\" in content):
            raise FindingError(f"the header check says {file is not None}, the oracle {is_sound(content)}")
        if file is not None:
            _check_against_safetensors(file, content, path)
    return file is not None


@contextmanager
def _file_of(content: bytes) -> Iterator[Path]:
    """A file that lies in memory and has a path."""
    descriptor = os.memfd_create("weights")
    try:
        os.write(descriptor, content)
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _opened(path: Path) -> WeightFile | None:
    try:
        return open_weight_file(path)
    except BadFile as refusal:
        if refusal.reason not in REASONS or len(str(refusal)) > _LONGEST_MESSAGE or not str(refusal).isprintable():
            raise FindingError(f"a refusal nobody can read: {refusal.reason!r}, {str(refusal)[:200]!r}") from refusal
    return None


def _check_memory(path: Path, size: int) -> None:
    tracemalloc.start()
    try:
        _opened(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    if peak > _MEMORY_BASE + _MEMORY_PER_BYTE * size:
        raise FindingError(f"{size} bytes took {peak} bytes of memory")


def _check_against_safetensors(file: WeightFile, content: bytes, path: Path) -> None:
    try:
        official = {
            name: (each["dtype"], tuple(each["shape"]), bytes(each["data"])) for name, each in deserialize(content)
        }
        with safe_open(path, "numpy") as again:
            metadata: Mapping[str, str] = again.metadata() or {}
    except SafetensorError as error:
        raise FindingError(f"safetensors refuses what was accepted: {error}") from error
    ours = {name: (each.dtype, each.shape, content[each.begin : each.end]) for name, each in file.tensors.items()}
    if ours != official or metadata != file.metadata:
        raise FindingError("safetensors finds other tensors or other metadata")


def seeds() -> Iterator[bytes]:
    """Gives the files to start from: the hostile ones that are small, and random ones, of which half are sound."""
    for hostile in every_small_file():
        if len(hostile.content) < 2000:
            yield hostile.content
    for seed in range(_SEEDS):
        yield random_file(Random(seed))  # noqa: S311 - files, not secrets
