"""Task: write the report of a run."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.reporting import write_report
from tasks.timing import timed

record = task(name="record", task_run_name="report of {run_id}", cache_policy=NO_CACHE)(timed(write_report))
