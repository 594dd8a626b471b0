"""Named places at which a run can be made to die, to prove that the next run goes on. Inert unless a test asks."""

from __future__ import annotations

import os
import signal

AFTER_CRAWL = "after-crawl"
AFTER_STORE = "after-store"
AFTER_READ = "after-read"
WHILE_COMPILING = "while-compiling"
AFTER_PLAN_SAVED = "after-plan-saved"
AFTER_PLANS = "after-plans"
AFTER_CONVERSION_STAGED = "after-conversion-staged"
AFTER_CONVERTED = "after-converted"
AFTER_SCORING = "after-scoring"
AFTER_SCORED = "after-scored"
AFTER_REFRESH_STAGED = "after-refresh-staged"
AFTER_REFRESHED = "after-refreshed"
AFTER_RELEASE_BUILT = "after-release-built"
AFTER_INTENT = "after-intent"
AFTER_HUB_PUBLISHED = "after-hub-published"
AFTER_PUBLISHED = "after-published"
BEFORE_REPORT = "before-report"
BEFORE_RUN_FINISHED = "before-run-finished"

CRASH_POINTS = (
    AFTER_CRAWL,
    AFTER_STORE,
    AFTER_READ,
    WHILE_COMPILING,
    AFTER_PLAN_SAVED,
    AFTER_PLANS,
    AFTER_CONVERSION_STAGED,
    AFTER_CONVERTED,
    AFTER_SCORING,
    AFTER_SCORED,
    AFTER_RELEASE_BUILT,
    AFTER_INTENT,
    AFTER_HUB_PUBLISHED,
    AFTER_PUBLISHED,
    BEFORE_REPORT,
    BEFORE_RUN_FINISHED,
)
"""In the order in which a run passes them."""

REFRESH_POINTS = (AFTER_REFRESH_STAGED, AFTER_REFRESHED)
"""Between scoring and releases, where conversions are refreshed."""

VARIABLE = "LORAX_CRASH_POINT"


def crash_point(name: str) -> None:
    """Kills this process with SIGKILL when the environment variable LORAX_CRASH_POINT names this place."""
    if os.environ.get(VARIABLE) == name:
        os.kill(os.getpid(), signal.SIGKILL)
