"""Task: convert a shard of adapters with one plan and stage the results."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.conversion import convert_shard
from tasks.timing import timed

convert = task(name="convert", cache_policy=NO_CACHE)(timed(convert_shard))
