"""How far a task is, for whoever watches in the same process. From another process nobody hears it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Listener = Callable[[str, float], None]
"""Called with the stage and the share of one item that was just finished (1.0 = a whole item)."""

_listeners: list[Listener] = []


def tick(stage: str, share: float = 1.0) -> None:
    """Tells the listeners of this process that `share` items of `stage` are done."""
    for listener in _listeners:
        listener(stage, share)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Calls `listener` at each tick while the block runs."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
