"""Task: put releases on the hub, each exactly once."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.publishing import publish_shard
from tasks.timing import timed

publish = task(name="publish", cache_policy=NO_CACHE)(timed(publish_shard))
