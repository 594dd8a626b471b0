"""What every test may rely on: no network but loopback, no telemetry, no trace outside the temporary folder."""

from __future__ import annotations

import atexit
import ipaddress
import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

import hypothesis
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# Before any test module imports Prefect or a Hugging Face library: both read the environment once, at import.
_SCRATCH = Path(tempfile.mkdtemp(prefix="lorax-tests-"))
atexit.register(shutil.rmtree, _SCRATCH, ignore_errors=True)
os.environ.update(
    {
        "DO_NOT_TRACK": "1",
        "HF_HOME": str(_SCRATCH / "huggingface"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
        # Two OpenMP threads that spin while they wait cost ten times the work where cores are shared.
        "OMP_WAIT_POLICY": "PASSIVE",
        "LORAX_DATA": str(_SCRATCH / "lorax-data"),
        "PREFECT_HOME": str(_SCRATCH / "prefect"),
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "TOKENIZERS_PARALLELISM": "false",
    }
)
for _inherited in ("PREFECT_API_URL", "PREFECT_API_KEY", "PREFECT_PROFILE", "LORAX_ENGINE", "HF_TOKEN"):
    os.environ.pop(_inherited, None)

# The same examples on every machine; HYPOTHESIS_PROFILE=explore looks further.
hypothesis.settings.register_profile("steady", deadline=None, derandomize=True, database=None, max_examples=50)
hypothesis.settings.register_profile("explore", deadline=None, database=None, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))


class NetworkUseError(RuntimeError):
    """A test tried to leave this machine."""


def _refuse_unless_loopback(address: object) -> None:
    if not isinstance(address, tuple):
        return  # a Unix socket is a file
    host = str(address[0])
    if host in {"", "localhost"}:
        return
    try:
        is_loopback = ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise NetworkUseError(f"connection to {host!r}: tests talk to loopback only; start a stand-in server instead")


@pytest.fixture(autouse=True, scope="session")
def loopback_only() -> Any:
    """Refuses every connection that would leave this machine."""
    patch = pytest.MonkeyPatch()
    for name in ("connect", "connect_ex"):
        original = getattr(socket.socket, name)

        def guarded(self: socket.socket, address: Any, *, _original: Any = original) -> Any:
            _refuse_unless_loopback(address)
            return _original(self, address)

        patch.setattr(socket.socket, name, guarded)
    yield
    patch.undo()


@pytest.fixture(scope="session")
def repository() -> Path:
    """Returns the root of this checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def digits() -> Path:
    """Returns the folder of the example that ships: bases, catalogue, natives, migration.toml. Read only."""
    return REPOSITORY / "examples" / "digits"


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    """Returns a data folder of this test alone; nothing is in it yet."""
    return tmp_path / "lorax-data"
