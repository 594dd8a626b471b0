"""Task: have the plans of one base pair: the method's own, and those of the controls it is scored beside."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.planning import prepare_pair
from tasks.timing import timed

prepare = task(name="prepare", task_run_name="plan {method} and its controls", cache_policy=NO_CACHE)(
    timed(prepare_pair)
)
