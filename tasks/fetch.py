"""Task: copy files into the store by their hash, and read what they hold."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.reading import fetch_shard
from tasks.timing import timed

fetch = task(name="fetch", cache_policy=NO_CACHE)(timed(fetch_shard))
