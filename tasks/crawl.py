"""Task: list a catalogue, hash what lies there, and ask the policy."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.survey import survey_catalogue
from tasks.timing import timed

crawl = task(name="crawl", task_run_name="crawl {location}", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=5)(
    timed(survey_catalogue)
)
