from __future__ import annotations

import pytest

from flows.stopwatch import Stopwatch, covered, stopwatch, timed_by


@pytest.mark.parametrize(
    ("intervals", "length"),
    [([], 0), ([(0, 2)], 2), ([(0, 2), (1, 3)], 3), ([(5, 6), (0, 2)], 3), ([(0, 9), (1, 2), (3, 4)], 9)],
)
def test_the_time_that_intervals_cover_counts_overlaps_once(
    intervals: list[tuple[float, float]], length: float
) -> None:
    assert covered(intervals) == length


def test_what_no_stage_accounts_for_is_prefects() -> None:
    watch = Stopwatch(began=100.0)
    watch.add_work("score", [(101.0, 104.0), (102.0, 105.0)])
    watch.add("ledger", 0.5)
    assert watch.totals(now=110.0) == {"score": 4.0, "ledger": 0.5, "prefect": 5.5, "total": 10.0}


def test_a_flow_finds_the_stopwatch_of_the_command_that_started_it() -> None:
    watch = Stopwatch(began=1.0)
    with timed_by(watch):
        assert stopwatch() is watch
    assert stopwatch() is not watch
