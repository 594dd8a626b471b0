"""The Prefect server of one run, as a process of its own. Prints its port when it answers; leaves when stdin closes.

Run as a script, with nothing of ours imported: it may not depend on which packages the parent has found.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time

FLUSH_SECONDS = 1.2
"""The recorder of task runs writes once a second; stopped earlier, it leaves the last ones as running for ever."""
GRACE_SECONDS = 4.0


def main() -> None:
    """Serves Prefect's API on a free loopback port until the parent goes."""
    import uvicorn
    from prefect.server.api.server import create_app

    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]

    class AnnouncingServer(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            sys.stdout.write(f"{port}\n")
            sys.stdout.flush()

    config = uvicorn.Config(create_app(ephemeral=True, final=True), log_level="error", lifespan="on")
    server = AnnouncingServer(config)
    threading.Thread(target=leave_with_parent, args=(server,), daemon=True).start()
    server.run(sockets=[listener])


def leave_with_parent(server: object) -> None:
    """Waits for the end of stdin, lets the server write what it holds, then ends it, by force if need be."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    time.sleep(FLUSH_SECONDS)
    server.should_exit = True  # type: ignore[attr-defined]
    time.sleep(GRACE_SECONDS)
    os._exit(0)


if __name__ == "__main__":
    main()
