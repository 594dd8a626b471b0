"""Task: score a shard of conversions beside their controls, judge them, draw their grids."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.scoring import score_shard
from tasks.timing import timed

score = task(name="score", cache_policy=NO_CACHE)(timed(score_shard))
