"""The Prefect API of a run: the one that is configured, else a server of our own that dies with this process.

Prefect's own temporary server outlives a parent that was killed. Ours holds the reading end of a pipe: when the parent
is gone, however it went, the pipe closes and the server leaves. Its database stays in `<data>/prefect`, so that
`PREFECT_HOME=<data>/prefect prefect server start` shows the runs of the past.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

API_URL = "PREFECT_API_URL"
START_SECONDS = 300.0
STOP_SECONDS = 8.0
DRAIN_SECONDS = 5.0
ANSWER_SECONDS = 10.0
CHILD = Path(__file__).with_name("server_child.py")

QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}
"""For every run: nothing is sent anywhere, and the console belongs to the progress bars. INFO goes on to the API."""

OWN_SERVER = {
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
}
"""For a server that lives as long as one run. Measured: 4 instead of 27 ms of server time per task run."""


class ServerError(Exception):
    """There is no Prefect API to run on."""


def configured_api(environment: Mapping[str, str] = os.environ, *, home: Path | None = None) -> str | None:
    """Returns the API URL that the environment or the active Prefect profile names, or None. Imports no Prefect."""
    if url := environment.get(API_URL):
        return url
    folder = Path(environment.get("PREFECT_HOME") or (home or Path.home()) / ".prefect").expanduser()
    path = Path(environment.get("PREFECT_PROFILES_PATH") or folder / "profiles.toml")
    try:
        profiles = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return None
    active = environment.get("PREFECT_PROFILE") or profiles.get("active")
    chosen = profiles.get("profiles", {}).get(active, {})
    return chosen.get(API_URL) or None


def require_answer(url: str) -> None:
    """Passes when something answers at an API URL, be it with a refusal; raises ServerError when nothing does."""
    try:
        urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=ANSWER_SECONDS).close()  # noqa: S310 - the user's URL
    except urllib.error.HTTPError:
        return  # a server that wants credentials; Prefect has them
    except (OSError, ValueError) as problem:
        raise ServerError(
            f"the Prefect server at {url} does not answer ({problem}); start it, or take {API_URL} out of the "
            "environment or the Prefect profile to let lorax run a server of its own"
        ) from problem


@dataclass(slots=True)
class OwnServer:
    """A Prefect server in a child process, started at once and waited for when it is needed."""

    home: Path
    started: float = field(default_factory=time.monotonic)
    _process: subprocess.Popen[bytes] | None = None
    _log: IO[bytes] | None = None

    def start(self) -> None:
        """Starts the child; returns before it is ready."""
        self.home.mkdir(parents=True, exist_ok=True)
        self._log = (self.home / "server.log").open("wb")
        self._process = subprocess.Popen(  # noqa: S603 - our own file under our own interpreter
            [sys.executable, "-P", str(CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **QUIET, **OWN_SERVER, "PREFECT_HOME": str(self.home)},
            start_new_session=True,  # Ctrl-C reaches us, and we decide when the server goes
        )

    def url(self) -> str:
        """Waits until the server answers and returns its API URL; raises ServerError with the end of its log."""
        process = self._process
        if process is None or process.stdout is None:
            raise ServerError("the Prefect server was not started")
        ready, _, _ = select.select([process.stdout], [], [], START_SECONDS)
        port = process.stdout.readline().strip() if ready else b""
        if not port.isdigit():
            self.stop()
            tail = (self.home / "server.log").read_text(errors="replace")[-2000:]
            raise ServerError(
                f"the Prefect server in {self.home} did not start (waited up to {START_SECONDS:.0f} s); "
                f"set {API_URL} to use another one. The end of its log:\n{tail}"
            )
        return f"http://127.0.0.1:{int(port)}/api"

    def stop(self) -> None:
        """Ends the child and waits for it; safe to call twice."""
        process, self._process = self._process, None
        if process is not None:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._log is not None:
            self._log.close()


@contextlib.contextmanager
def prefect_api(data: Path, *, meanwhile: Callable[[], None] = lambda: None) -> Iterator[str]:
    """Yields the API URL of this run, with the environment set so that a Prefect imported inside the block uses it.

    `meanwhile` is called while a server of our own starts. Raises ServerError where none starts.
    """
    configured = configured_api()
    if configured is not None:
        require_answer(configured)
        meanwhile()
        with environment({**QUIET, API_URL: configured}):
            yield configured
        return
    server = OwnServer((data / "prefect").resolve())
    server.start()
    try:
        meanwhile()
        with environment({**QUIET, API_URL: server.url(), "PREFECT_HOME": str(server.home)}):
            bury_dead_runs()
            try:
                yield os.environ[API_URL]
            except Exception:
                drain()
                raise
            drain()
    finally:
        server.stop()


def bury_dead_runs() -> None:
    """Marks runs as crashed that a killed process has left as running. Only for a server that nobody else uses."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.objects import State
    from prefect.states import Crashed

    running = FlowRunFilter.model_validate({"state": {"type": {"any_": ["RUNNING"]}}})
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=running):
            state: State[None] = Crashed(message="Its process was killed; the next run went on from there.")
            client.set_flow_run_state(run.id, state, force=True)


def drain() -> None:
    """Waits until Prefect's client has sent what it still holds; else it complains at exit, and history is lost."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for service in (APILogWorker, EventsWorker):
        service.drain_all(timeout=DRAIN_SECONDS)


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables for the length of the block. What the user has set stays, but for the API URL."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update({name: value for name, value in values.items() if name == API_URL or before[name] is None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def without_heartbeat() -> contextlib.AbstractContextManager[Any]:
    """Returns a context in which flows send no heartbeat: it costs a second per flow, for unattended runs only."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    return temporary_settings(updates={PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})
