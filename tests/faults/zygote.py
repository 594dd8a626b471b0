"""A process that has imported everything and forks a child for every run of the command that it is asked for.

Reads one order per line (JSON: arguments, environment, kill_after) and answers each with one line: how the child ended
and what it printed. The child runs the command's own `main`, so that nothing but the imports is shared.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import catalogs.report
import flows.command_line
import flows.dry_run
import flows.launch
import flows.migrate
import tasks.warm_up

LOADED = (catalogs.report, flows.dry_run, flows.launch, flows.migrate, tasks.warm_up)


def main() -> None:
    """Serves orders until standard input ends."""
    assert threading.active_count() == 1, "a process with threads must not be forked"
    for line in sys.stdin:
        sys.stdout.write(json.dumps(run(json.loads(line))) + "\n")
        sys.stdout.flush()


def run(order: dict[str, Any]) -> dict[str, Any]:
    """Runs one order in a child and returns how that ended."""
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        pid = os.fork()
        if pid == 0:
            become_the_command(order, log.fileno())
        if order["kill_after"]:
            time.sleep(order["kill_after"])
            os.kill(pid, signal.SIGKILL)  # a child that has ended is still ours until it is waited for
        _, status = os.waitpid(pid, 0)
        return {"status": os.waitstatus_to_exitcode(status), "output": Path(log.name).read_text(errors="replace")}


def become_the_command(order: dict[str, Any], log: int) -> None:
    """Turns this process into a run of the command. Never returns."""
    for stream in (sys.stdout, sys.stderr):
        os.dup2(log, stream.fileno())
    os.environ.update(order["environment"])
    sys.argv = ["lorax", *order["arguments"]]
    try:
        flows.command_line.main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    else:
        status = 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
