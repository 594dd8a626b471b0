from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorax.adapter import LowRank
from lorax.recompression import added, recompressed


def update(out: int, columns: int, rank: int, *, seed: int = 0) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    up, down = torch.randn(out, rank, generator=generator), torch.randn(rank, columns, generator=generator)
    return LowRank(up, down, scale=0.5)


def test_updates_side_by_side_are_their_sum() -> None:
    parts = [update(7, 5, 2, seed=seed) for seed in range(3)]

    found = added(parts)

    assert found.rank == 6
    assert found.scale == 0.5
    assert torch.allclose(found.dense(), torch.stack([part.dense() for part in parts]).sum(0), atol=1e-5)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 6), st.integers(1, 14))
def test_a_cut_update_is_the_best_of_its_rank_and_says_what_it_lacks(
    out: int, columns: int, wanted: int, rank: int
) -> None:
    whole = update(out, columns, rank)
    left, values, right = torch.linalg.svd(whole.dense().double(), full_matrices=False)

    found, lost = recompressed(whole, rank=wanted)

    assert found.rank <= wanted
    best = ((left[:, :wanted] * values[:wanted]) @ right[:wanted]).float()
    assert torch.allclose(found.dense(), best, atol=1e-4)
    share = values[wanted:].square().sum() / values.square().sum()
    assert float(lost) == pytest.approx(float(share), abs=1e-5)


def test_without_a_rank_nothing_is_lost_and_no_more_is_kept_than_the_shape_can_have() -> None:
    whole = update(4, 9, 6)

    found, lost = recompressed(whole)

    assert found.rank == 4
    assert float(lost) == 0.0
    assert torch.allclose(found.dense(), whole.dense(), atol=1e-5)


def test_an_update_of_zeros_stays_zero_and_has_nothing_to_lose() -> None:
    found, lost = recompressed(LowRank(torch.zeros(5, 4), torch.zeros(4, 3), scale=1.0), rank=2)

    assert torch.equal(found.dense(), torch.zeros(5, 3))
    assert float(lost) == 0.0


def test_both_factors_share_the_singular_values_and_keep_their_element_type() -> None:
    large = update(8, 6, 4)

    found, _ = recompressed(LowRank(1000 * large.up, large.down / 1000, large.scale), rank=2)

    assert found.up.dtype == found.down.dtype == torch.float32
    assert torch.allclose(found.up.norm(dim=0), found.down.norm(dim=1), rtol=1e-4)
