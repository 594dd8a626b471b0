from __future__ import annotations

from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorax.assignment import best_assignment


def largest_sum(scores: torch.Tensor) -> float:
    """Returns the best sum of all assignments, by trying them."""
    wide = scores if len(scores) <= scores.shape[1] else scores.T
    every = permutations(range(wide.shape[1]), len(wide))
    return max(sum(float(wide[row, column]) for row, column in enumerate(each)) for each in every)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2000), st.sampled_from([1.0, 4.0]))
def test_the_sum_is_the_largest_of_all_assignments(rows: int, columns: int, seed: int, steps: float) -> None:
    # Rounded, so that there are ties.
    scores = (steps * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))).round() / steps

    pairs = best_assignment(scores)

    assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs) == min(rows, columns)
    assert pairs == sorted(pairs)
    assert sum(float(scores[pair]) for pair in pairs) == pytest.approx(largest_sum(scores), abs=1e-5)


def test_a_greedy_choice_is_given_up_where_that_is_better() -> None:
    assert best_assignment(torch.tensor([[10.0, 9.0], [9.0, 1.0]])) == [(0, 1), (1, 0)]


def test_a_renumbering_is_found_again() -> None:
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    scores = torch.rand(40, 40, generator=torch.Generator().manual_seed(2))
    scores[torch.arange(40), order] += 1

    assert best_assignment(scores) == list(enumerate(order.tolist()))


def test_a_table_without_rows_has_no_pairs() -> None:
    assert best_assignment(torch.zeros(0, 3)) == []
    assert best_assignment(torch.zeros(3, 0)) == []
