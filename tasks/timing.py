"""When a shard began and ended on its worker, so that a run can tell work from orchestration."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Generic, ParamSpec, TypedDict, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Timed(TypedDict, Generic[T]):
    """A result with the times of the work behind it, in seconds since the epoch: comparable between processes."""

    result: T
    began: float
    ended: float


def timed(function: Callable[P, T]) -> Callable[P, Timed[T]]:
    """Returns the function with its result in a Timed. The function itself stays importable, and so do its globals."""

    @functools.wraps(function)
    def with_times(*arguments: P.args, **options: P.kwargs) -> Timed[T]:
        began = time.time()
        result = function(*arguments, **options)
        return Timed(result=result, began=began, ended=time.time())

    return with_times
