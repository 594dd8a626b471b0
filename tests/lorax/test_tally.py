from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lorax.scorer import Figure, interval
from lorax.scorers import SCORERS
from lorax.tally import LEADING, Tally, scorer_of

SAMPLES = 12


def sums(distance: float, *, seed: int = 0, samples: int = SAMPLES) -> Tensor:
    """Sums per sample of the leading figure: `distance` of the way from the target is left, more or less."""
    generator = torch.Generator().manual_seed(seed)
    whole = 1 + torch.rand(samples, generator=generator, dtype=torch.float64)
    return torch.stack([whole * distance, whole], dim=1)


def noisy(distance: float, *, samples: int = SAMPLES) -> Tensor:
    """The same with a share that is different for each sample."""
    generator = torch.Generator().manual_seed(1)
    share = distance + 0.2 * torch.randn(samples, generator=generator, dtype=torch.float64)
    return torch.stack([share, torch.ones_like(share)], dim=1)


def test_figures_are_those_of_their_scorers_with_their_intervals() -> None:
    given = noisy(0.3)
    found = Tally({"converted": {LEADING: given}}).figures()
    assert found["converted"][LEADING] == interval(SCORERS[LEADING].figure, given)
    assert found["converted"][LEADING].low < found["converted"][LEADING].value < found["converted"][LEADING].high


def test_looks_of_one_view_have_figures_of_their_own_by_one_scorer() -> None:
    found = Tally({"converted": {f"{LEADING}:first": sums(0.3), f"{LEADING}:second": sums(0.6)}}).figures()
    values = {name: figure.value for name, figure in found["converted"].items()}
    assert values == pytest.approx({f"{LEADING}:first": 0.7, f"{LEADING}:second": 0.4})
    assert scorer_of(f"{LEADING}:first") == scorer_of(LEADING) == LEADING


def test_more_samples_are_as_if_all_had_been_drawn_at_once() -> None:
    first, second, whole = sums(0.3), noisy(0.5, samples=5), torch.cat([sums(0.3), noisy(0.5, samples=5)])
    both = Tally({"converted": {LEADING: first}}).with_more(Tally({"converted": {LEADING: second}}))
    assert both.samples == SAMPLES + 5
    assert both.figures() == Tally({"converted": {LEADING: whole}}).figures()


def test_more_samples_narrow_an_interval() -> None:
    given = Tally({"converted": {LEADING: noisy(0.3)}})
    wider, narrower = (one.figures()["converted"][LEADING] for one in (given, given.with_more(given).with_more(given)))
    assert narrower.value == pytest.approx(wider.value)
    assert narrower.high - narrower.low < 0.8 * (wider.high - wider.low)


def test_figures_that_a_further_round_lacks_stay_as_they_are() -> None:
    given = Tally({"converted": {LEADING: sums(0.3), "drift": sums(0.1)}})
    more = Tally({"converted": {LEADING: sums(0.3, seed=4)}})
    both = given.with_more(more)
    assert both.figures()["converted"]["drift"] == given.figures()["converted"]["drift"]
    assert both.samples == 2 * SAMPLES


def test_margins_are_measured_sample_by_sample_and_so_narrower_than_the_figures() -> None:
    own = noisy(0.3)
    rival = own + torch.tensor([0.1, 0.0], dtype=torch.float64)
    given = Tally({"converted": {LEADING: own}, "copy": {LEADING: rival}})
    figure, margin = given.figures()["converted"][LEADING], given.margins()["copy"]
    assert margin.value == pytest.approx(0.1)
    assert margin.high - margin.low < 1e-9
    assert figure.high - figure.low > 0.1


def test_there_is_a_margin_over_every_rival_and_none_over_itself() -> None:
    given = Tally({"converted": {LEADING: sums(0.3)}, "zero": {LEADING: sums(1.0)}, "random": {LEADING: sums(1.2)}})
    margins = given.margins()
    assert {name: figure.value for name, figure in margins.items()} == pytest.approx({"zero": 0.7, "random": 0.9})


def test_without_a_conversion_or_its_leading_figure_there_are_no_margins() -> None:
    assert Tally({"copy": {LEADING: sums(0.3)}}).margins() == {}
    assert Tally({"converted": {"drift": sums(0.1)}}).margins() == {}
    assert Tally({"converted": {"drift": sums(0.1)}}).samples == 0


def test_an_equal_rival_leaves_a_margin_of_nothing() -> None:
    given = Tally({"converted": {LEADING: noisy(0.3)}, "copy": {LEADING: noisy(0.3)}})
    assert given.margins() == {"copy": Figure.exact(0.0)}
