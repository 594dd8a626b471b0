from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import lorax
from catalogs.ledger import Ledger
from flows.command_line import app
from flows.states import STATES


def ask(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.fixture
def told(data_folder: Path) -> Path:
    """Returns a data folder whose ledger knows one run with one entry."""
    with Ledger.open(data_folder / "ledger.duckdb", run_id="r1") as ledger:
        entry = {"entry": {"catalogue": "c", "entry_id": "a.safetensors", "name": "A"}, "decision": {}}
        outcome = {"work_key": "k", "state": "quarantined", "reason": "truncated", "text": "cut", "name": "A"}
        ledger.append_many(
            [
                ("run_started", "r1", {"migration": "m", "settings": {}}),
                ("entry_seen", "c:a.safetensors", entry),
                ("outcome", "c:a.safetensors", outcome),
                ("run_finished", "r1", {"states": {"quarantined": 1}}),
            ]
        )
    return data_folder


def test_it_tells_its_version() -> None:
    assert ask("--version").output == f"lorax {lorax.__version__}\n"


def test_the_status_of_an_empty_folder_is_all_zero_and_makes_nothing(data_folder: Path) -> None:
    run = ask("status", "--data", data_folder, "--json")
    assert json.loads(run.stdout)["states"] == dict.fromkeys(STATES, 0)
    assert not data_folder.exists()


def test_the_status_counts_all_six_states(told: Path) -> None:
    values = json.loads(ask("status", "--data", told, "--json").stdout)
    assert values["states"] == {**dict.fromkeys(STATES, 0), "quarantined": 1}
    assert values["runs"]["total"] == 1
    assert values["report"] is None
    assert Path(values["ledger"]).is_file()


def test_the_status_is_readable_for_people(told: Path) -> None:
    output = ask("status", "--data", told).output
    assert "1 quarantined" in output
    assert "report  none yet" in output


def test_the_queries_that_have_a_name_are_listed() -> None:
    names = {one["name"] for one in json.loads(ask("query", "--list", "--json").stdout)}
    assert {"states", "published", "scores", "runs"} <= names
    assert "states" in ask("query", "--list").output


def test_a_query_is_asked_by_its_name_or_as_sql(told: Path) -> None:
    [row] = json.loads(ask("query", "states", "--data", told, "--json").stdout)
    assert (row["name"], row["state"]) == ("A", "quarantined")
    [count] = json.loads(ask("query", "SELECT count(*) AS n FROM event", "--data", told, "--json").stdout)
    assert count == {"n": 4}


def test_an_answer_in_a_pipe_is_not_cut_off(told: Path) -> None:
    long = "x" * 300
    assert long in ask("query", f"SELECT '{long}' AS word", "--data", told).output


def test_a_statement_that_writes_is_refused(told: Path) -> None:
    run = ask("query", "DELETE FROM event", "--data", told)
    assert run.exit_code == 2


def test_a_trace_starts_from_an_entry(told: Path) -> None:
    found = json.loads(ask("trace", "a.safetensors", "--data", told, "--json").stdout)
    assert found["what"] == "outcome"
    assert "quarantined" in ask("trace", "A", "--data", told).output


@pytest.mark.parametrize(
    "arguments",
    [
        ["migrate", "no-such-file.toml"],
        ["migrate"],
        ["frobnicate"],
        ["query", "no-such-query"],
        ["trace", "no-such-thing"],
    ],
)
def test_a_mistake_in_the_call_ends_with_status_2_and_no_traceback(arguments: list[str], told: Path) -> None:
    run = ask(*arguments, "--data", told)
    assert run.exit_code == 2
    assert "Traceback" not in run.output


def test_a_mistake_in_the_settings_ends_with_status_2_and_names_the_table(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text('name = "x"\nfrobnicate = 1\n')
    run = ask("migrate", tmp_path / "m.toml", "--data", tmp_path / "data")
    assert run.exit_code == 2
    assert "m.toml top level: unknown setting 'frobnicate'" in run.stderr
    assert not (tmp_path / "data").exists()


def test_an_engine_that_does_not_exist_is_refused(
    tmp_path: Path, small_world: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAX_ENGINE", "steam")
    run = ask("migrate", getattr(small_world, "settings"), "--data", tmp_path / "data")  # noqa: B009
    assert (run.exit_code, "use one of thread, process, dask" in run.stderr) == (2, True)


@pytest.mark.parametrize("arguments", [["status", "--json"], ["query", "--list", "--json"], ["--version"]])
def test_looking_needs_neither_torch_nor_prefect(arguments: list[str], repository: Path, tmp_path: Path) -> None:
    block = "import sys; sys.modules.update(dict.fromkeys(('torch', 'prefect', 'diffusers', 'transformers')))"
    code = f"{block}; sys.argv[1:] = {arguments!r}; from flows.command_line import main; main()"
    environment = {"LORAX_DATA": str(tmp_path / "data"), "PATH": "/usr/bin:/bin"}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, env=environment, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
