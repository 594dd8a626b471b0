from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from lorax.adapter import Adapter
from lorax.geometry import LOG_PROBABILITIES
from lorax.score import ScoreBench
from lorax.score_card import ScoreCard
from lorax.scorer import ADAPTED, SOURCE, TARGET, Anchors, Figure, measure
from lorax.scorers import SCORERS
from tests.stand_ins.pairs import SETTINGS, Pair, lineage, twins  # noqa: F401 - fixtures
from tests.stand_ins.tiny_bases import make_adapter


def scaled(adapter: Adapter, factor: float) -> Adapter:
    updates = {site: replace(update, scale=factor * update.scale) for site, update in adapter.updates.items()}
    return replace(adapter, updates=updates)


def given(outputs: dict[str, torch.Tensor]) -> Anchors:
    return Anchors({name: partial(torch.clone, output) for name, output in outputs.items()})


@pytest.fixture(scope="module")
def card(twins: Pair) -> ScoreCard:  # noqa: F811
    bench = ScoreBench(twins.source_model, twins.target_model, settings=SETTINGS)
    adapter = make_adapter(twins.source.base, strength=0.5)
    return bench.score(
        adapter,
        {"converted": adapter, "flipped": scaled(adapter, -1.0), "weak": scaled(adapter, 0.3)},
        fingerprints=("a", "b"),
    )


def test_the_very_same_adapter_on_the_very_same_base_scores_one(card: ScoreCard) -> None:
    own = card.figures["converted"]

    assert own["divergence_gain"].value == pytest.approx(1.0, abs=1e-5)
    assert own["effect_cosine"].value == pytest.approx(1.0, abs=1e-5)
    assert own["effect_gain"].value == pytest.approx(1.0, abs=1e-5)


def test_doing_nothing_scores_zero(card: ScoreCard) -> None:
    assert card.figures["zero"]["divergence_gain"].value == 0.0
    assert card.figures["zero"]["drift"].value == 0.0


def test_a_flipped_adapter_does_harm_and_points_the_other_way(card: ScoreCard) -> None:
    assert card.figures["flipped"]["divergence_gain"].value < -1
    assert card.figures["flipped"]["effect_cosine"].value < -0.8


def test_a_weaker_copy_lies_between_nothing_and_everything(card: ScoreCard) -> None:
    weak = card.figures["weak"]

    assert 0.1 < weak["divergence_gain"].value < 0.9
    assert 0.1 < weak["effect_gain"].value < 0.6
    assert 0 < weak["drift"].value < card.figures["converted"]["drift"].value


def test_every_candidate_has_every_figure_with_the_value_near_its_interval(card: ScoreCard) -> None:
    assert set(card.figures) == {"converted", "flipped", "weak", "zero"}
    usual = {"divergence_gain", "effect_cosine", "effect_gain", "drift", "relative_drift", "reversion"}
    for figures in card.figures.values():
        assert set(figures) >= usual
        assert set(figures) <= set(SCORERS)
        for figure in figures.values():
            assert figure.low <= figure.high


def test_a_card_survives_json(card: ScoreCard) -> None:
    assert ScoreCard.from_json(card.to_json()) == card


def test_the_same_bench_gives_the_same_card_twice(lineage: Pair) -> None:  # noqa: F811
    bench = ScoreBench(lineage.source_model, lineage.target_model, settings=SETTINGS)
    adapter = make_adapter(lineage.source.base)

    first, second = (bench.score(adapter, {"converted": adapter}) for _ in range(2))

    assert first == second


def test_the_grid_shows_each_model_on_the_same_noise(lineage: Pair) -> None:  # noqa: F811
    bench = ScoreBench(lineage.source_model, lineage.target_model, settings=SETTINGS)
    adapter = make_adapter(lineage.source.base)

    drawn = bench.images(adapter, {"copy": adapter, "converted": scaled(adapter, 0.0)}, prompts=["a digit", "one"])

    assert list(drawn) == ["source", "source+adapter", "target", "target+copy", "target+converted"]
    assert all(row.shape == (2, 8, 8, 1) for row in drawn.values())
    assert torch.equal(drawn["target"], drawn["target+converted"])
    assert not torch.equal(drawn["source"], drawn["source+adapter"])


def test_an_interval_narrows_as_the_probe_grows() -> None:
    widths = []
    for images in (8, 512):
        generator = torch.Generator().manual_seed(0)
        wanted, plain = torch.randn(images, 4, generator=generator), torch.zeros(images, 4)
        candidate = wanted + torch.randn(images, 4, generator=generator)
        anchors = given({"source": plain, "source+adapter": wanted, "target": plain})
        found = measure(SCORERS["divergence_gain"], anchors, candidate=candidate, group=torch.arange(images))
        widths.append(found.high - found.low)

    assert widths[1] < widths[0] / 3


def test_the_interval_counts_images_and_not_noise_levels() -> None:
    generator = torch.Generator().manual_seed(1)
    wanted = torch.randn(10, 4, generator=generator)
    noise = torch.randn(10, 4, generator=generator)
    repeated = {"source": torch.zeros(50, 4), "source+adapter": wanted.repeat(5, 1), "target": torch.zeros(50, 4)}
    once = {"source": torch.zeros(10, 4), "source+adapter": wanted, "target": torch.zeros(10, 4)}
    scorer = SCORERS["divergence_gain"]

    many = measure(scorer, given(repeated), candidate=(wanted + noise).repeat(5, 1), group=torch.arange(10).repeat(5))
    single = measure(scorer, given(once), candidate=wanted + noise, group=torch.arange(10))

    assert isinstance(many, Figure)
    assert (many.low, many.high) == (pytest.approx(single.low), pytest.approx(single.high))


def test_changes_of_text_are_weighed_by_what_source_and_adapter_say() -> None:
    """A token that source+adapter never says does not count, however much a candidate changes it."""
    certain, even = torch.tensor([[0.998, 0.001, 0.001]]).log(), torch.full((1, 3), 1 / 3).log()
    anchors = Anchors(
        {name: partial(torch.clone, even) for name in (SOURCE, TARGET)} | {ADAPTED: partial(torch.clone, certain)},
        LOG_PROBABILITIES,
    )
    change = torch.tensor([[0.0, 1.0, -1.0]])

    assert anchors.product(change, change).item() == pytest.approx(0.002, rel=1e-3)
