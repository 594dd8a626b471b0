"""Many files through three stages that overlap: the next group is read and the last one written while one is computed.

Reading and writing leave the interpreter to others most of the time, in system calls and hashes, so that threads are
enough. At most three groups are in memory, and the bytes of files always in the same memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from lorax.loaded_file import Allocate
from lorax.memory import Lease, MemoryPool

GROUP_BYTES = 160 * 2**20
"""Of files that are computed together: large products, and still three groups fit into any machine."""
_GROUP_ITEMS = 64

Item = TypeVar("Item")
Ready = TypeVar("Ready")
Computed = TypeVar("Computed")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, eq=False)
class Done(Generic[Result]):
    """Is what reading gives for an item that goes no further: its result."""

    result: Result


@dataclass(frozen=True, slots=True, eq=False)
class _Group(Generic[Item, Ready, Result]):
    """Holds items that were read together, and the lease of the memory that what was read lies in."""

    items: Sequence[Item]
    read: Sequence[Ready | Done[Result]]
    lease: Lease

    def ready(self) -> list[Ready]:
        return [one for one in self.read if not isinstance(one, Done)]

    def written(self, computed: Sequence[Computed], write: Callable[[Item, Ready, Computed], Result]) -> list[Result]:
        """Gives the results of the items, in their order, and the memory back."""
        following = iter(computed)
        try:
            return [
                one.result if isinstance(one, Done) else write(item, one, next(following))
                for item, one in zip(self.items, self.read, strict=True)
            ]
        finally:
            self.lease.end()


def streamed(
    items: Iterable[Item],
    *,
    size: Callable[[Item], int],
    read: Callable[[Item, Allocate], Ready | Done[Result]],
    compute: Callable[[list[Ready]], Sequence[Computed]],
    write: Callable[[Item, Ready, Computed], Result],
    group_bytes: int = GROUP_BYTES,
) -> Iterator[Result]:
    """Gives the result of each item, in their order; read and write run in a thread each, compute in the caller's.

    size: bytes of an item's files; read: makes an item ready to be computed, or is done with it; its second argument
    gives memory for the file's bytes, which is used for another file as soon as the item is written: results must not
    hold it; compute: of a group that is ready gives one answer for each, in order. What a stage raises ends the
    stream, so that each has to turn into results what one file alone can cause.
    """
    pool = MemoryPool()
    groups = grouped(items, size, group_bytes)

    def read_group(group: Sequence[Item]) -> _Group[Item, Ready, Result]:
        lease = pool.lease()
        return _Group(group, [read(item, lease.allocate) for item in group], lease)

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        ahead = _begun(reader, read_group, groups)
        behind: Future[list[Result]] | None = None
        while ahead is not None:
            group = ahead.result()
            ahead = _begun(reader, read_group, groups)
            ready = group.ready()
            computed = compute(ready) if ready else ()
            if behind is not None:
                yield from behind.result()
            behind = writer.submit(group.written, computed, write)
        if behind is not None:
            yield from behind.result()


def grouped(items: Iterable[Item], size: Callable[[Item], int], group_bytes: int) -> Iterator[list[Item]]:
    """Gives consecutive items together as long as their bytes do not exceed the limit; a larger one goes alone."""
    group: list[Item] = []
    total = 0
    for item in items:
        own = size(item)
        if group and (total + own > group_bytes or len(group) == _GROUP_ITEMS):
            yield group
            group, total = [], 0
        group.append(item)
        total += own
    if group:
        yield group


def _begun(
    reader: ThreadPoolExecutor,
    read_group: Callable[[Sequence[Item]], _Group[Item, Ready, Result]],
    groups: Iterator[list[Item]],
) -> Future[_Group[Item, Ready, Result]] | None:
    group = next(groups, None)
    return reader.submit(read_group, group) if group is not None else None
