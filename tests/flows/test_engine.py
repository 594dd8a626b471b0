from __future__ import annotations

import os
import sys

import pytest
from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner

from flows.engine import Engine, EngineError, make_task_runner, read_engine


@pytest.mark.parametrize(
    ("text", "engine"),
    [
        ("", Engine("thread", workers=os.cpu_count() or 1)),
        ("thread", Engine("thread", workers=os.cpu_count() or 1)),
        ("thread=3", Engine("thread", workers=3)),
        ("process=2", Engine("process", workers=2)),
        ("dask", Engine("dask")),
        ("dask=tcp://127.0.0.1:8786", Engine("dask", address="tcp://127.0.0.1:8786")),
    ],
)
def test_it_understands(text: str, engine: Engine) -> None:
    assert read_engine({"LORAX_ENGINE": text}) == engine


@pytest.mark.parametrize(
    ("text", "said"), [("ray", "use one of thread, process, dask"), ("thread=two", "write for example thread=2")]
)
def test_it_refuses_with_what_is_understood(text: str, said: str) -> None:
    with pytest.raises(EngineError, match=said):
        read_engine({"LORAX_ENGINE": text})


def test_threads_and_processes_have_their_runner() -> None:
    threads, processes = make_task_runner(Engine("thread", 2)), make_task_runner(Engine("process", 2))
    assert isinstance(threads, ThreadPoolTaskRunner)
    assert isinstance(processes, ProcessPoolTaskRunner)


def test_dask_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prefect_dask", None)
    with pytest.raises(EngineError, match="pip install prefect-dask"):
        make_task_runner(Engine("dask"))
