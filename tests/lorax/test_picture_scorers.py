"""Formulas of the figures that come from pictures, on points that are written down here."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from lorax.scorer import ADAPTED, SOURCE, TARGET, Anchors, by_sample, measure
from lorax.scorers import SCORERS


def anchors(**shown: Tensor) -> Anchors:
    names = {"source": SOURCE, "adapted": ADAPTED, "target": TARGET}
    return Anchors({names.get(name, name): partial(torch.clone, tensor) for name, tensor in shown.items()})


def points(count: int, width: int, *, seed: int) -> Tensor:
    return normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)))


def value(name: str, given: Anchors, candidate: Tensor) -> float:
    return measure(SCORERS[name], given, candidate=candidate, group=torch.arange(len(candidate))).value


@pytest.mark.parametrize("name", ["likeness", "style"])
def test_likeness_is_the_share_of_the_mean_distance_that_is_closed(name: str) -> None:
    wanted, plain, seen = (points(6, 8, seed=seed) for seed in range(3))
    given = anchors(adapted=wanted, target=plain)
    away = [(1 - (each * wanted).sum(1)).mean() for each in (seen, plain)]

    assert value(name, given, seen) == pytest.approx(float(1 - away[0] / away[1]), abs=1e-5)
    assert value(name, given, wanted) == 1.0
    assert value(name, given, plain) == 0.0


def test_prompt_agreement_is_the_difference_of_mean_cosines() -> None:
    wanted, words, seen = (points(6, 8, seed=seed) for seed in range(3))
    expected = ((seen * words).sum(1) - (wanted * words).sum(1)).mean()

    assert value("prompt_agreement", anchors(adapted=wanted, prompts=words), seen) == pytest.approx(float(expected))


def test_preference_is_the_mean_difference_in_the_encoders_own_unit() -> None:
    wanted, seen = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.5], [4.5]])

    assert value("preference", anchors(adapted=wanted), seen) == pytest.approx(1.5)


def spread(shown: Tensor) -> float:
    """Half the mean squared distance of all pairs, each picture with itself among them."""
    return float((shown[:, None] - shown[None]).square().sum(-1).mean() / 2)


def test_diversity_is_the_ratio_of_mean_distances_between_pairs() -> None:
    wanted, seen = points(7, 16, seed=1), points(7, 16, seed=2) * torch.tensor([1.0] * 8 + [0.1] * 8)

    assert value("diversity", anchors(adapted=wanted), seen) == pytest.approx(spread(seen) / spread(wanted), rel=1e-5)
    assert value("diversity", anchors(adapted=wanted), wanted) == 1.0


def test_a_base_that_draws_one_picture_only_has_no_diversity() -> None:
    wanted = points(7, 16, seed=1)

    assert value("diversity", anchors(adapted=wanted), wanted[:1].expand(7, -1)) < 1e-6


def test_wide_points_keep_their_diversity_within_some_percent() -> None:
    wanted, seen = points(40, 1024, seed=1), points(40, 1024, seed=2)
    seen = normalize(seen + 0.5 * seen[:1])
    exact = spread(seen) / spread(wanted)

    assert exact < 0.9
    assert value("diversity", anchors(adapted=wanted), seen) == pytest.approx(exact, rel=0.1)


def test_samples_that_are_added_later_count_as_if_they_had_been_there_at_once() -> None:
    wanted, seen = points(9, 128, seed=1), points(9, 128, seed=2)
    scorer = SCORERS["diversity"]
    parts = [
        by_sample(scorer.terms(anchors(adapted=wanted[rows]), seen[rows]), torch.arange(len(seen[rows])))
        for rows in (slice(0, 4), slice(4, 9))
    ]

    together = float(scorer.figure(torch.cat(parts).sum(0)))

    assert together == pytest.approx(value("diversity", anchors(adapted=wanted), seen))


def test_one_picture_says_nothing_about_diversity() -> None:
    only = points(1, 8, seed=0)

    assert not SCORERS["diversity"].defined(SCORERS["diversity"].terms(anchors(adapted=only), only))


@pytest.mark.parametrize("name", ["likeness", "style", "diversity", "prompt_agreement", "preference"])
def test_only_models_that_draw_have_these_figures(name: str) -> None:
    assert SCORERS[name].kinds == ("diffusion",)


def test_the_interval_of_likeness_narrows_with_the_pictures() -> None:
    widths = []
    for count in (8, 256):
        wanted, plain, seen = (points(count, 8, seed=seed) for seed in range(3))
        found = measure(
            SCORERS["likeness"], anchors(adapted=wanted, target=plain), candidate=seen, group=torch.arange(count)
        )
        widths.append(found.high - found.low)

    assert widths[1] < widths[0] / 3
