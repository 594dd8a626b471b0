"""Remembers tensors that are asked for again, up to a number of bytes."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from torch import Tensor


class Memory:
    """Keeps tensors by key until their bytes exceed a limit; what found no room is computed again when asked for."""

    def __init__(self, limit: int) -> None:
        self._left, self._kept = limit, dict[Hashable, Tensor]()

    def get(self, key: Hashable | None, compute: Callable[[], Tensor]) -> Tensor:
        """Returns the tensor of a key, computed when it is first asked for; without a key it is not kept."""
        if key is not None and key in self._kept:
            return self._kept[key]
        found = compute()
        size = found.numel() * found.element_size()
        if key is not None and size <= self._left:
            self._left -= size
            self._kept[key] = found
        return found
