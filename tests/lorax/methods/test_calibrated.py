from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lorax.isometry import isometry
from lorax.method import SiteStatistics, Term
from tests.lorax.methods.toy import WIDTH, carry, compile_toy, random, rotation, sums

ROWS = 400


def maps(term: object) -> tuple[Tensor, Tensor]:
    """Returns both maps as matrices, output (out_t, out_s) and input (in_t, in_s)."""
    assert isinstance(term, Term)
    return term.output.apply(torch.eye(WIDTH)), term.input.apply(torch.eye(WIDTH))


def compiled(statistics: SiteStatistics, target: Tensor, **settings: float) -> tuple[Tensor, Tensor]:
    return maps(compile_toy("calibrated", random(WIDTH, WIDTH), target, settings=dict(settings), statistics=statistics))


def turned(scale: float = 1.0) -> SiteStatistics:
    """Returns statistics of a target whose inputs and gradients are the source's, turned and `scale` times as large."""
    rows, pulls = random(ROWS, WIDTH, seed=1), random(ROWS, WIDTH, seed=2)
    return sums((rows, scale * rows @ rotation().T), (pulls, scale * pulls @ rotation().T))


def test_inside_a_lineage_strength_without_end_is_a_copy() -> None:
    found = compiled(turned(), random(WIDTH, WIDTH), input_strength=1e9, output_strength=1e9)

    assert all(torch.allclose(each, torch.eye(WIDTH), atol=1e-4) for each in found)


def test_outside_a_lineage_strength_without_end_is_the_isometry_that_fits() -> None:
    found = compiled(turned(), random(WIDTH, WIDTH, seed=5), input_strength=1e9, output_strength=1e9)

    assert all(torch.allclose(each, rotation(), atol=1e-4) for each in found)


@pytest.mark.parametrize(("scale", "expected"), [(2.0, 0.5), (0.5, 1.0)])
def test_the_isometry_is_made_smaller_where_the_target_is_larger_and_never_larger(
    scale: float, expected: float
) -> None:
    found = compiled(turned(scale), random(WIDTH, WIDTH, seed=5), input_strength=1e9, output_strength=1e9)

    assert all(torch.allclose(each, expected * rotation(), atol=1e-4) for each in found)


def test_without_strength_it_is_least_squares() -> None:
    found = compiled(turned(0.5), random(WIDTH, WIDTH, seed=5), stranger_share=1e-9)

    assert all(torch.allclose(each, 2 * rotation(), atol=1e-3) for each in found)


def test_directions_that_the_probe_never_showed_follow_the_isometry_instead_of_noise() -> None:
    rows, pulls = random(ROWS, WIDTH, seed=1), random(ROWS, WIDTH, seed=2)
    rows[:, WIDTH // 2 :] = 1e-4 * random(ROWS, WIDTH // 2, seed=3)
    noisy = rows + 1e-3 * random(ROWS, WIDTH, seed=4)

    output, inward = compiled(sums((rows, noisy), (pulls, pulls)), random(WIDTH, WIDTH, seed=5))

    assert float(torch.linalg.matrix_norm(inward, 2)) < 1.1
    assert float(torch.linalg.svdvals(inward)[-1]) > 0.5
    assert torch.allclose(output, torch.eye(WIDTH), atol=1e-3)


def test_an_update_of_a_weight_of_another_width_comes_out_with_the_same_effect() -> None:
    rows, pulls, turn = random(ROWS, WIDTH, seed=1), random(ROWS, WIDTH, seed=2), rotation(WIDTH + 4)
    source, update = random(WIDTH, WIDTH), random(WIDTH, WIDTH, seed=3)
    target = turn @ source @ turn.T

    found = compile_toy("calibrated", source, target, statistics=sums((rows, rows @ turn.T), (pulls, pulls @ turn.T)))

    moved = carry(found, update, to=target)
    assert torch.allclose(turn.T @ moved @ turn, update, atol=1e-3)


def test_the_isometry_keeps_lengths() -> None:
    found = isometry(random(WIDTH, WIDTH, seed=8))

    assert torch.allclose(found @ found.T, torch.eye(WIDTH, dtype=torch.float64), atol=1e-9)
