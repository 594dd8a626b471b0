from __future__ import annotations

import inspect
import time

from tasks.timing import timed


def work(number: int, *, seconds: float) -> int:
    time.sleep(seconds)
    return number + 1


def test_a_result_comes_with_the_times_of_its_work() -> None:
    before = time.time()
    found = timed(work)(1, seconds=0.02)
    assert found["result"] == 2
    assert before <= found["began"] <= found["ended"] - 0.02


def test_prefect_sees_the_parameters_of_the_work_itself() -> None:
    assert list(inspect.signature(timed(work)).parameters) == ["number", "seconds"]
