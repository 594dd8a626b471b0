"""Memory that is used again: a fresh page costs the kernel more time than reading what goes into it."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

_STEP = 2**20
"""Sizes are rounded up to this, so that files of nearly one size share their memory."""


class MemoryPool:
    """Keeps memory that was given back, for whoever asks for no more and for at least half of it."""

    def __init__(self) -> None:
        self._free: list[Tensor] = []
        self._lock = Lock()

    def lease(self) -> Lease:
        """Gives a lease that has taken nothing yet."""
        return Lease(self)

    def take(self, size: int) -> Tensor:
        """Gives memory of at least that many bytes. What fits nobody's wishes any more goes back to the system."""
        with self._lock:
            for index, memory in enumerate(self._free):
                if size <= len(memory) <= max(2 * size, _STEP):
                    return self._free.pop(index)
            self._free.clear()
        return torch.empty(-(-max(size, 1) // _STEP) * _STEP, dtype=torch.uint8)

    def give(self, memories: list[Tensor]) -> None:
        """Takes memory back."""
        with self._lock:
            self._free += memories


class Lease:
    """Holds the memory that one piece of work has taken from a pool, until all of it goes back at once."""

    def __init__(self, pool: MemoryPool) -> None:
        self._pool = pool
        self._taken: list[Tensor] = []

    def allocate(self, size: int) -> Tensor:
        """Gives memory for that many bytes: uint8, valid until the lease ends."""
        self._taken.append(self._pool.take(size))
        return self._taken[-1][:size]

    def end(self) -> None:
        """Gives everything back; nobody may look at it any more."""
        taken, self._taken = self._taken, []
        self._pool.give(taken)
