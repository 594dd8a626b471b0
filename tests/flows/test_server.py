from __future__ import annotations

import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from flows.server import API_URL, OwnServer, ServerError, configured_api, environment, require_answer


def profiles(folder: Path, text: str) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    (folder / "profiles.toml").write_text(text)
    return {"PREFECT_HOME": str(folder)}


LOCAL = 'active = "local"\n[profiles.local]\nPREFECT_API_URL = "http://prefect.example/api"\n[profiles.other]\n'


def test_the_environment_names_the_api_first(tmp_path: Path) -> None:
    assert configured_api({API_URL: "http://a/api", **profiles(tmp_path, LOCAL)}) == "http://a/api"


def test_the_active_profile_names_it_otherwise(tmp_path: Path) -> None:
    assert configured_api(profiles(tmp_path, LOCAL)) == "http://prefect.example/api"


def test_another_profile_can_be_chosen(tmp_path: Path) -> None:
    assert configured_api({**profiles(tmp_path, LOCAL), "PREFECT_PROFILE": "other"}) is None


@pytest.mark.parametrize("text", ["", "active = ", 'active = "gone"\n', "[profiles]\n"])
def test_without_a_usable_profile_there_is_none(tmp_path: Path, text: str) -> None:
    assert configured_api(profiles(tmp_path, text)) is None


def test_without_any_configuration_there_is_none(tmp_path: Path) -> None:
    assert configured_api({}, home=tmp_path) is None


def test_the_environment_is_set_for_the_block_only_and_the_users_own_words_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LORAX_TEST_MINE", "mine")
    monkeypatch.delenv("LORAX_TEST_NEW", raising=False)
    with environment({"LORAX_TEST_MINE": "theirs", "LORAX_TEST_NEW": "new", API_URL: "http://b/api"}):
        assert (os.environ["LORAX_TEST_MINE"], os.environ["LORAX_TEST_NEW"]) == ("mine", "new")
        assert os.environ[API_URL] == "http://b/api"
    assert os.environ["LORAX_TEST_MINE"] == "mine"
    assert "LORAX_TEST_NEW" not in os.environ
    assert API_URL not in os.environ


def test_a_configured_server_that_does_not_answer_is_refused_with_the_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ServerError, match=f"(?s)127.0.0.1:{port}/api does not answer.*{API_URL}"):
        require_answer(f"http://127.0.0.1:{port}/api")


def test_a_configured_server_that_wants_credentials_is_left_to_prefect() -> None:
    class Unwilling(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(401)

        def log_message(self, *_arguments: object) -> None:
            """Stays silent."""

    with http.server.HTTPServer(("127.0.0.1", 0), Unwilling) as unwilling:
        answering = threading.Thread(target=unwilling.handle_request)
        answering.start()
        require_answer(f"http://127.0.0.1:{unwilling.server_port}/api")
        answering.join()


def test_a_server_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", "nonsense")
    server = OwnServer(tmp_path / "prefect")
    server.start()
    with pytest.raises(ServerError, match=r"(?s)did not start.*Could not parse SQLAlchemy URL"):
        server.url()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


PARENT = """
import sys, time
from pathlib import Path
from flows.server import OwnServer
server = OwnServer(Path(sys.argv[1]))
server.start()
print(server._process.pid, server.url(), flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_our_server_leaves_when_its_parent_is_killed(tmp_path: Path, repository: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "prefect")], cwd=repository, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid, url = parent.stdout.readline().split()
        assert answers(url)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while is_alive(int(pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_alive(int(pid))
    assert not answers(url)
