"""Loaded pairs of bases for scoring: as many at once as the machine has room for.

An adapter is patched into the models for the length of a look, so two scores must never share a pair. Small bases are
loaded once per core and run on one thread each: their layers are too small to share out. Large bases, and those on an
accelerator, are loaded once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import torch

from lorax.probe import ProbeSettings
from lorax.score import ScoreBench

SMALL_BYTES = 256 * 2**20


class BenchPool:
    """Lends benches for one pair of folders, at most `limit` at a time; loads one when all others are lent."""

    def __init__(self, folders: tuple[str, str], settings: ProbeSettings, *, device: str, limit: int) -> None:
        self._folders, self._settings, self._device = folders, settings, device
        self._free: list[ScoreBench] = []
        self._room = threading.BoundedSemaphore(limit)
        self._loading = threading.Lock()
        self.limit = limit

    @contextmanager
    def lent(self) -> Iterator[ScoreBench]:
        """Yields a bench that nobody else has; raises lorax.errors.Stop where a base cannot be opened."""
        with self._room:
            bench = self._take()
            try:
                yield bench
            finally:
                self._free.append(bench)

    def _take(self) -> ScoreBench:
        if self._device == "cpu":
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // self.limit))
        # One at a time: the libraries that load models do so with settings of the whole process.
        with self._loading:
            if self._free:
                return self._free.pop()
            source, target = map(Path, self._folders)
            return ScoreBench.open(source, target, settings=self._settings, device=self._device)


@lru_cache(maxsize=1)
def pool_of(folders: tuple[str, str], settings: ProbeSettings, device: str) -> BenchPool:
    """Returns the pool of a pair of folders, kept for the next shard; the pair before it is let go."""
    return BenchPool(folders, settings, device=device, limit=room_for(folders, device=device))


def room_for(folders: tuple[str, str], *, device: str) -> int:
    """Returns how many benches of a pair may be loaded: one per core where both bases are small and on the CPU."""
    if device != "cpu":
        return 1
    largest = max(sum(file.stat().st_size for file in Path(folder).rglob("*.safetensors")) for folder in folders)
    return (os.cpu_count() or 1) if largest <= SMALL_BYTES else 1
