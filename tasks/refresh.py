"""Task: let conversions that did not pass learn from source+adapter, and stage what came of it."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.refreshing import refresh_shard
from tasks.timing import timed

refresh = task(name="refresh", cache_policy=NO_CACHE)(timed(refresh_shard))
