"""Task: build the folders that are about to be published."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.releasing import build_shard
from tasks.timing import timed

release = task(name="release", cache_policy=NO_CACHE)(timed(build_shard))
