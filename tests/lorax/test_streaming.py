from __future__ import annotations

from collections.abc import Callable
from threading import Event, Lock

import pytest
import torch

from lorax.loaded_file import Allocate
from lorax.memory import MemoryPool
from lorax.streaming import Done, grouped, streamed

PATIENCE = 30.0
"""Seconds after which a test that waits for another thread gives up."""


def plain(item: int, allocate: Allocate) -> int:
    allocate(10)
    return item


def one_each(item: int) -> int:
    return item - item + 1


def squared(ready: list[int]) -> list[int]:
    return [each**2 for each in ready]


def answer(item: int, ready: int, computed: int) -> tuple[int, int, int]:
    return item, ready, computed


@pytest.mark.parametrize("group_bytes", [1, 3, 100])
def test_every_item_has_its_result_in_its_place_whatever_the_groups(group_bytes: int) -> None:
    found = streamed(range(10), size=one_each, read=plain, compute=squared, write=answer, group_bytes=group_bytes)

    assert list(found) == [(item, item, item**2) for item in range(10)]


def test_an_item_that_is_done_when_it_was_read_is_neither_computed_nor_written() -> None:
    computed: list[int] = []

    def read(item: int, _allocate: Allocate) -> int | Done[str]:
        return Done(f"no {item}") if item % 2 else item

    def compute(ready: list[int]) -> list[int]:
        computed.extend(ready)
        return ready

    found = streamed(
        range(6), size=one_each, read=read, compute=compute, write=lambda item, *_: f"yes {item}", group_bytes=3
    )

    assert list(found) == ["yes 0", "no 1", "yes 2", "no 3", "yes 4", "no 5"]
    assert computed == [0, 2, 4]


def test_nothing_gives_nothing() -> None:
    assert list(streamed([], size=one_each, read=plain, compute=squared, write=answer)) == []


def test_the_next_group_is_read_and_the_last_one_written_while_one_is_computed() -> None:
    began = {(stage, item): Event() for stage in ("read", "compute", "write") for item in range(3)}

    def read(item: int, _allocate: Allocate) -> int:
        began["read", item].set()
        return item

    def compute(ready: list[int]) -> list[int]:
        began["compute", ready[0]].set()
        if ready == [1]:
            assert began["read", 2].wait(PATIENCE)
            assert began["write", 0].wait(PATIENCE)
        return ready

    def write(item: int, *_: int) -> int:
        began["write", item].set()
        if item == 0:
            assert began["compute", 1].wait(PATIENCE)
        return item

    assert list(streamed(range(3), size=one_each, read=read, compute=compute, write=write, group_bytes=1)) == [0, 1, 2]


def test_no_more_than_three_groups_are_in_memory_which_is_used_again() -> None:
    lock, alive, most, places = Lock(), [0], [0], set()

    def read(item: int, allocate: Allocate) -> torch.Tensor:
        memory = allocate(2**20)
        places.add(memory.data_ptr())
        memory.fill_(item)
        with lock:
            alive[0] += 1
            most[0] = max(most[0], alive[0])
        return memory

    def write(item: int, ready: torch.Tensor, _computed: torch.Tensor) -> int:
        assert bool((ready == item).all())  # nobody else has this memory yet
        with lock:
            alive[0] -= 1
        return item

    found = list(streamed(range(40), size=lambda _: 1, read=read, compute=list, write=write, group_bytes=2))

    assert found == list(range(40))
    assert most[0] <= 3 * 2
    assert len(places) <= 4 * 2


@pytest.mark.parametrize("stage", ["read", "compute", "write"])
def test_what_a_stage_raises_ends_the_stream_after_the_results_before_it(stage: str) -> None:
    def raising(name: str, work: Callable[..., object]) -> Callable[..., object]:
        def checked(*arguments: object) -> object:
            if name == stage and arguments[0] in (5, [5]):
                raise RuntimeError("a defect")
            return work(*arguments)

        return checked

    found: list[object] = []
    with pytest.raises(RuntimeError, match="a defect"):
        found.extend(
            streamed(
                range(9),
                size=one_each,
                read=raising("read", plain),
                compute=raising("compute", squared),  # type: ignore[arg-type]
                write=raising("write", answer),
                group_bytes=1,
            )
        )
    assert found == [(item, item, item**2) for item in range(len(found))]
    assert len(found) <= 5


def test_groups_are_as_large_as_the_limit_allows_and_a_larger_item_goes_alone() -> None:
    assert list(grouped([3, 3, 3, 9, 1, 1], lambda size: size, 6)) == [[3, 3], [3], [9], [1, 1]]
    assert max(map(len, grouped(range(1000), lambda _: 0, 6))) == 64


def test_memory_that_was_given_back_is_taken_again_by_what_fits() -> None:
    pool = MemoryPool()
    lease = pool.lease()
    first = lease.allocate(5 * 2**20)
    assert (first.dtype, first.shape) == (torch.uint8, (5 * 2**20,))
    other = lease.allocate(5 * 2**20)
    assert first.data_ptr() != other.data_ptr()
    place = {first.data_ptr(), other.data_ptr()}
    lease.end()

    again = pool.lease()
    assert again.allocate(4 * 2**20).data_ptr() in place
    assert len(again.allocate(1)) == 1
    assert len(again.allocate(0)) == 0
