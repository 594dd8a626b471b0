"""Plans that a worker has opened; they stay in memory from shard to shard."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from lorax.plan import Plan, load_plan
from tasks.device import device


@lru_cache(maxsize=8)
def open_plan(path: str) -> Plan:
    """Returns the plan of a file that is named by its content, its operators where this worker computes.

    Raises lorax.errors.Stop where it is not that plan.
    """
    return load_plan(Path(path)).on(device())
