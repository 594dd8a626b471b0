from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import duckdb
import pytest

from catalogs.errors import Stop
from catalogs.hash_chain import Head, read_head
from catalogs.ledger import Ledger, open_reader

WRITER = """
import sys
from pathlib import Path
from catalogs.ledger import Ledger
with Ledger.open(Path(sys.argv[1]), run_id="child") as ledger:
    print("open", flush=True)
    number = ledger.head.sequence
    while True:
        batch = number % 3 + 1
        ledger.append_many([("tick", str(number + i), {"n": number + i}) for i in range(batch)])
        number += batch
        print(number, flush=True)
        if number % 5 == 0:
            ledger.snapshot()
"""


def start_writer(path: Path) -> subprocess.Popen[str]:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "open\n"
    return writer


def kill(writer: subprocess.Popen[str]) -> list[str]:
    writer.send_signal(signal.SIGKILL)
    out, _ = writer.communicate()
    return out.splitlines()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "ledger.duckdb"


def fill(path: Path, events: int) -> None:
    with Ledger.open(path, run_id="r") as ledger:
        ledger.append_many(("tick", str(n), {"n": n}) for n in range(events))


def test_facts_come_back_in_order_with_run_time_and_chain(path: Path) -> None:
    times = iter(["2026-01-01T00:00:00+00:00"] * 2 + ["2026-01-02T03:04:05.600000+00:00"] * 9)
    with Ledger.open(path, run_id="run-7", clock=lambda: next(times)) as ledger:
        first = ledger.append("tick", "a", {"b": 1, "a": [None, "é"]})
        second, third = ledger.append_many([("tick", "b", {}), ("tock", "c", {})])

        assert ledger.rows("SELECT subject FROM event WHERE kind = ? ORDER BY sequence", ["tick"]) == [
            {"subject": "a"},
            {"subject": "b"},
        ]

    assert [first.sequence, second.sequence, third.sequence] == [1, 2, 3]
    assert first.body == '{"a":[null,"é"],"b":1}'
    assert (second.previous_hash, third.run_id) == (first.hash, "run-7")
    assert second.recorded_at == "2026-01-02T03:04:05.600000+00:00"
    assert open_reader(path.parent).events() == (first, second, third)
    assert read_head(path.with_name("ledger.head")) == Head(3, third.hash)


def test_the_chain_goes_on_after_the_ledger_was_closed(path: Path) -> None:
    fill(path, 3)
    with Ledger.open(path) as ledger:
        ledger.append("tick", "3", {})

    assert [event.sequence for event in open_reader(path.parent).events()] == [1, 2, 3, 4]


def test_a_body_that_is_no_json_adds_nothing_at_all(path: Path) -> None:
    with Ledger.open(path) as ledger:
        with pytest.raises(TypeError):
            ledger.append_many([("tick", "a", {}), ("tick", "b", {"path": path})])
        ledger.append("tick", "c", {})

        assert [row["subject"] for row in ledger.rows("SELECT subject FROM event")] == ["c"]


def test_threads_append_without_breaking_the_chain(path: Path) -> None:
    with Ledger.open(path) as ledger:
        threads = [
            threading.Thread(target=lambda: [ledger.append("tick", str(n), {}) for n in range(10)]) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    with Ledger.open(path) as ledger:
        assert ledger.head.sequence == 40


def test_a_second_writer_is_told_who_writes_and_what_to_do(path: Path) -> None:
    writer = start_writer(path)
    try:
        with pytest.raises(Stop, match=rf"process {writer.pid} is writing .*one writer.*--data"):
            Ledger.open(path, patience_seconds=0)
    finally:
        kill(writer)

    with Ledger.open(path) as ledger:
        ledger.append("tick", "mine", {})


def test_a_second_writer_in_one_process_is_refused_and_the_first_goes_on(path: Path) -> None:
    with Ledger.open(path) as ledger:
        with pytest.raises(Stop, match="this process writes to it already"):
            Ledger.open(path.parent / ".." / path.parent.name / path.name)
        ledger.append("tick", "a", {})

    Ledger.open(path).close()


def test_a_reader_beside_a_writer_sees_the_last_snapshot_and_says_so(path: Path) -> None:
    fill(path, 2)
    with Ledger.open(path) as ledger:
        ledger.append("tick", "2", {})

        before = open_reader(path.parent)
        ledger.snapshot()
        after = open_reader(path.parent)

        assert (before.is_snapshot, len(before.events())) == (True, 2)
        assert (after.is_snapshot, len(after.events())) == (True, 3)
        assert len(ledger.reader().events()) == 3
        assert not ledger.reader().is_snapshot
    assert not open_reader(path.parent).is_snapshot


def test_a_reader_in_another_process_never_stops_a_writer(path: Path) -> None:
    writer = start_writer(path)
    try:
        assert all(open_reader(path.parent).is_snapshot for _ in range(5))
    finally:
        lines = kill(writer)

    assert len(lines) > 1


def test_reading_where_nothing_was_written_says_what_to_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    for place in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(Stop, match=r"no ledger here yet.*run `lorax migrate`"):
            open_reader(place)


def test_reading_what_a_first_run_barely_began_says_the_same(path: Path) -> None:
    path.parent.mkdir()
    duckdb.connect(str(path)).close()

    with pytest.raises(Stop, match="no ledger here yet"):
        open_reader(path.parent)


def test_a_ledger_in_memory_holds_what_a_reader_saw_and_leaves_no_trace(path: Path) -> None:
    fill(path, 2)
    files = sorted(path.parent.iterdir())
    with Ledger.in_memory(open_reader(path.parent), run_id="dry") as ledger:
        assert ledger.append("tick", "2", {}).sequence == 3
        assert ledger.snapshot() is None
        assert len(ledger.reader().events()) == 3

    assert sorted(path.parent.iterdir()) == files
    assert len(open_reader(path.parent).events()) == 2


KILL_LOOP = """
import os, random, signal, sys, time
from pathlib import Path
import duckdb
from catalogs.ledger import Ledger

path, kills = Path(sys.argv[1]), int(sys.argv[2])
luck = random.Random(7)


def write(acknowledge):
    with Ledger.open(path, run_id="child") as ledger:
        number = ledger.head.sequence
        while True:
            batch = number % 3 + 1
            ledger.append_many([("tick", str(number + i), {"n": number + i}) for i in range(batch)])
            number += batch
            os.write(acknowledge, b"%d\\n" % number)
            if number % 5 == 0:
                ledger.snapshot()


acknowledged = 0
for _ in range(kills):
    reading, writing = os.pipe()
    child = os.fork()  # this process never opens a database itself: it has no threads to lose
    if child == 0:
        write(writing)
    os.close(writing)
    lines = os.read(reading, 100)  # it has begun: kill it in the middle of whatever comes next
    time.sleep(luck.uniform(0.0, 0.1))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as rest:
        lines += rest.read()
    acknowledged = max(int(line) for line in lines.split(b"\\n")[:-1])
    print(acknowledged, flush=True)
    check = os.fork()
    if check == 0:
        with Ledger.open(path) as ledger:
            rows = ledger.rows("SELECT (body->>'n')::INT AS n FROM event ORDER BY sequence")
            is_whole = [row["n"] for row in rows] == list(range(len(rows)))
            os._exit(0 if is_whole and ledger.head.sequence >= acknowledged else 1)
    assert os.waitpid(check, 0)[1] == 0, "a fact was lost"
"""


def test_kills_lose_no_acknowledged_fact_and_leave_a_whole_chain(path: Path) -> None:
    kills = 12
    done = subprocess.run(
        [sys.executable, "-c", KILL_LOOP, str(path), str(kills)], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == kills
    assert int(done.stdout.split()[-1]) >= kills


def test_a_database_alone_does_not_notice_a_lost_tail_but_the_head_does(path: Path) -> None:
    with Ledger.open(path) as ledger:
        ledger.append("tick", "0", {})
    shorter = path.read_bytes()
    fill(path, 4)
    path.write_bytes(shorter)

    control = duckdb.connect(str(path), read_only=True)
    assert control.execute("SELECT count(*) FROM event").fetchall() == [(1,)]  # the control: no complaint
    control.close()
    with pytest.raises(Stop, match=r"events 2 to 5 are missing: it holds 1, ledger\.head says 5"):
        Ledger.open(path)
    with pytest.raises(Stop, match="events 2 to 5 are missing"):
        open_reader(path.parent)


def test_a_ledger_file_that_is_gone_is_not_quietly_begun_anew(path: Path) -> None:
    fill(path, 3)
    path.unlink()

    with pytest.raises(Stop, match="events 1 to 3 are missing"):
        Ledger.open(path)
    with pytest.raises(Stop, match="is gone"):
        open_reader(path.parent)
    assert not path.exists()


def test_a_head_that_is_gone_stops_the_writer(path: Path) -> None:
    fill(path, 3)
    path.with_name("ledger.head").unlink()

    with pytest.raises(Stop, match=r"ledger\.head beside it is gone"):
        Ledger.open(path)


def test_an_altered_row_is_named(path: Path) -> None:
    fill(path, 5)
    connection = duckdb.connect(str(path))
    connection.execute("UPDATE event SET body = '{\"n\":99}' WHERE sequence = 3")
    connection.close()

    with pytest.raises(Stop, match=r"event 3 \(tick\) is not what was recorded"):
        Ledger.open(path)
    with pytest.raises(Stop, match="event 3"):  # and not "writes to it already": the failed attempt let go
        Ledger.open(path)


def test_no_damage_to_the_file_is_taken_for_a_shorter_history(path: Path, tmp_path: Path) -> None:
    fill(path, 200)
    luck = random.Random(3)
    whole = path.read_bytes()
    silent = 0
    messages: list[str] = []
    for attempt in range(24):
        folder = tmp_path / f"copy{attempt}"
        shutil.copytree(path.parent, folder)
        damaged = bytearray(whole)
        if attempt % 3 == 0:
            del damaged[luck.randrange(len(damaged)) :]
        else:
            place = luck.randrange(len(damaged))
            damaged[place] ^= 1 << luck.randrange(8)
        (folder / path.name).write_bytes(damaged)
        try:
            with Ledger.open(folder / path.name) as ledger:
                silent += ledger.head.sequence != 200
        except Stop as stop:
            messages.append(str(stop))

    assert silent == 0
    assert len(messages) > 6
    assert all("backup" in message for message in messages)


def test_a_file_that_is_no_database_is_refused_by_both(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"<html>not a database</html>" * 500)

    with pytest.raises(Stop, match="cannot be opened as a ledger"):
        Ledger.open(path)
    with pytest.raises(Stop, match="cannot be read as a ledger"):
        open_reader(path.parent)
