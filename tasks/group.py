"""Task: put adapters that share a base pair together, and say what becomes of the others."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.grouping import group_adapters
from tasks.timing import timed

group = task(name="group", task_run_name="group by base", cache_policy=NO_CACHE)(timed(group_adapters))
