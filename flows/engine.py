"""Where shards run: one setting, LORAX_ENGINE, and flow code that does not know.

    thread[=workers]    in this process (the default, one worker per core; a device serves one of them at a time)
    process[=workers]   in child processes, each with its own copy of the models
    dask[=address]      on a Dask cluster: the one at `address`, or a local one

A worker keeps plans and models between shards whichever of them runs it.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect.task_runners import TaskRunner

VARIABLE = "LORAX_ENGINE"
KINDS = ("thread", "process", "dask")


class EngineError(Exception):
    """LORAX_ENGINE says something that cannot be had."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A parsed LORAX_ENGINE: the kind, and its number of workers or its address."""

    kind: str
    workers: int = 1
    address: str = ""


def read_engine(environment: Mapping[str, str] = os.environ) -> Engine:
    """Returns the engine that the environment asks for; raises EngineError naming what is understood."""
    text = environment.get(VARIABLE, "").strip() or "thread"
    kind, _, argument = text.partition("=")
    if kind not in KINDS:
        raise EngineError(f"{VARIABLE}={text!r}: there is no engine {kind!r}; use one of {', '.join(KINDS)}")
    if kind == "dask":
        return Engine(kind, address=argument)
    if argument and not (argument.isdecimal() and int(argument) > 0):
        raise EngineError(f"{VARIABLE}={text!r}: {argument!r} is no number of workers; write for example {kind}=2")
    return Engine(kind, workers=int(argument) if argument else default_workers(kind))


def default_workers(kind: str) -> int:
    """Returns how many workers fit this machine: a thread per core, or a process per two cores."""
    cores = os.cpu_count() or 1
    return cores if kind == "thread" else max(1, cores // 2)


def make_task_runner(engine: Engine) -> TaskRunner[Any]:
    """Returns the Prefect task runner of an engine; raises EngineError where its package is not installed."""
    from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner

    if engine.kind == "thread":
        return ThreadPoolTaskRunner(max_workers=engine.workers)
    if engine.kind == "process":
        return ProcessPoolTaskRunner(max_workers=engine.workers)
    return _dask_runner(engine.address)


def _dask_runner(address: str) -> TaskRunner[Any]:
    try:
        dask_runner = importlib.import_module("prefect_dask").DaskTaskRunner
    except ImportError as missing:
        raise EngineError(
            f"{VARIABLE}=dask needs the package prefect-dask, which is not installed: "
            "run `pip install prefect-dask`, or use thread or process"
        ) from missing
    runner: TaskRunner[Any] = (
        dask_runner(address=address)
        if address
        else dask_runner(cluster_kwargs={"n_workers": default_workers("dask"), "threads_per_worker": 1})
    )
    return runner
