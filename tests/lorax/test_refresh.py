from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import count

import pytest
import torch

from lorax.adapter import Adapter, LowRank
from lorax.base_model import BaseModel
from lorax.errors import Stop
from lorax.language_model import load_language_model
from lorax.refresh import FAR, NEAR, Refreshed, RefreshSettings, refresh, refresh_many
from lorax.refresh_lessons import OwnSamples
from lorax.refresh_start import completed
from lorax.running_model import RunningModel
from tests.stand_ins.pairs import SETTINGS as PICTURES
from tests.stand_ins.pairs import Pair, lineage  # noqa: F401 - a fixture
from tests.stand_ins.tiny_bases import make_adapter
from tests.stand_ins.tiny_texts import SETTINGS as TEXTS
from tests.stand_ins.tiny_texts import TextPair, make_text_base, text_lineage  # noqa: F401 - a fixture

QUICK = {"samples": 24, "held_out": 8, "steps": 40, "batch": 6, "rate": 1e-2, "warm_up": 3, "neutral": 8}


@dataclass(frozen=True)
class Case:
    """A pair of models, an adapter of the source, a weak start for the target, and settings of some seconds."""

    base: BaseModel
    source: RunningModel
    target: RunningModel
    adapter: Adapter
    start: Adapter
    settings: RefreshSettings

    def refreshed(self, **changes: object) -> Refreshed:
        return refresh(self.source, self.target, self.adapter, self.start, replace(self.settings, **changes))


def weakened(adapter: Adapter) -> Adapter:
    updates = {site: replace(update, scale=0.3 * update.scale) for site, update in adapter.low_rank().items()}
    return replace(adapter, updates=updates)


@pytest.fixture(params=["language", "diffusion"])
def case(request: pytest.FixtureRequest) -> Case:
    settings = TEXTS if request.param == "language" else PICTURES
    pair: TextPair | Pair = request.getfixturevalue("text_lineage" if request.param == "language" else "lineage")
    match = "proj" if request.param == "language" else "attn"
    adapter = make_adapter(pair.source.base, strength=2.0, match=match)
    quick = RefreshSettings(settings, **QUICK)
    return Case(pair.source.base, pair.source_model, pair.target_model, adapter, weakened(adapter), quick)


def factors(adapter: Adapter) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    return {str(site): (update.up, update.down) for site, update in adapter.low_rank().items()}


def test_it_comes_nearer_to_source_with_adapter_than_its_start(case: Case) -> None:
    found = case.refreshed()

    assert found.best.gain > found.start.gain + 0.1
    assert found.best == max(found.history, key=lambda check: check.gain)


def test_sites_ranks_scales_and_vectors_are_those_of_the_start(case: Case) -> None:
    found = case.refreshed(steps=3).adapter

    for site, update in case.start.low_rank().items():
        now = found.updates[site]
        assert isinstance(now, LowRank)
        assert (now.rank, now.scale, now.kernel) == (update.rank, update.scale, update.kernel)
        assert now.up.dtype == now.down.dtype == torch.float32
    assert set(found.updates) == set(case.start.updates)


def test_equal_input_gives_equal_bytes(case: Case) -> None:
    first, second = (factors(case.refreshed(steps=6).adapter) for _ in range(2))

    for site, (up, down) in first.items():
        assert torch.equal(up, second[site][0])
        assert torch.equal(down, second[site][1])


def test_a_ruinous_rate_gives_the_start_back(case: Case) -> None:
    found = case.refreshed(steps=4, rate=1e4, warm_up=1)

    assert found.best == found.start
    for site, update in case.start.low_rank().items():
        now = found.adapter.low_rank()[site]
        assert torch.allclose(now.dense(), update.dense(), atol=1e-5)


def test_the_budget_of_steps_is_kept(case: Case) -> None:
    assert case.refreshed(steps=7).history[-1].step == 7


def test_no_time_means_no_step(case: Case) -> None:
    assert case.refreshed(seconds=0.0).history[-1].step == 0


def test_who_asks_it_to_stop_gets_what_was_reached(case: Case) -> None:
    asked = count()
    found = refresh(case.source, case.target, case.adapter, case.start, case.settings, stop=lambda: next(asked) == 5)

    assert found.history[-1].step == 5
    assert found.best.gain >= found.start.gain


def test_the_weights_stay_as_they_are_and_may_be_asked_for_gradients_again(case: Case) -> None:
    module = case.target.module(next(iter(case.start.updates)))
    assert module is not None
    before = {name: weight.detach().clone() for name, weight in module.named_parameters()}

    case.refreshed(steps=3)

    for name, weight in module.named_parameters():
        assert torch.equal(weight, before[name])
        assert weight.requires_grad
        assert weight.grad is None


def test_several_adapters_give_what_each_gives_alone(case: Case) -> None:
    settings = replace(case.settings, steps=5, hold=3.0, allowed=0.01)
    alone = refresh(case.source, case.target, case.adapter, case.start, settings)

    together = refresh_many(
        case.source, case.target, [(case.adapter, case.adapter), (case.adapter, case.start)], settings
    )

    assert len(together) == 2
    assert together[1].best.gain == pytest.approx(alone.best.gain, abs=1e-4)
    for site, (up, down) in factors(together[1].adapter).items():
        assert torch.allclose(up, factors(alone.adapter)[site][0], atol=1e-4)
        assert torch.allclose(down, factors(alone.adapter)[site][1], atol=1e-4)


def test_another_vocabulary_is_refused(case: Case, tmp_path_factory: pytest.TempPathFactory) -> None:
    stranger = load_language_model(make_text_base(tmp_path_factory.mktemp("base"), seed=5, letters="abc"))

    with pytest.raises(Stop, match=r"vocabular|cannot be run on the same inputs"):
        refresh(case.source, stranger, case.adapter, case.start, case.settings)


def test_the_best_of_several_starts_is_taken(case: Case) -> None:
    wrong = replace(
        case.start, updates={site: replace(each, scale=-each.scale) for site, each in case.start.low_rank().items()}
    )

    found = refresh(
        case.source,
        case.target,
        case.adapter,
        {"wrong": wrong, "right": case.start},
        replace(case.settings, steps=2),
    )

    assert found.started_from == "right"
    assert found.starts["right"] > found.starts["wrong"]
    assert found.start.gain == pytest.approx(found.starts["right"], abs=1e-4)


def test_a_held_drift_stays_below_that_of_a_free_one(case: Case) -> None:
    free, held = (case.refreshed(hold=weight, allowed=0.1, checks=10, patience=10) for weight in (0.0, 30.0))

    assert free.history[-1].drift > free.allowed_drift
    assert held.history[-1].drift < 0.8 * free.history[-1].drift


def test_without_neutral_samples_nothing_is_said_of_drift(case: Case) -> None:
    found = case.refreshed(neutral=0, steps=2)

    assert math.isnan(found.best.drift)


def test_both_teachers_can_be_mixed(case: Case) -> None:
    found = case.refreshed(mix=0.5)

    assert found.best.gain > found.start.gain


def test_a_good_start_is_given_less_to_learn_than_a_bad_one(case: Case) -> None:
    settings = replace(case.settings, steps=None, samples=None, batch=None, rate=None, seconds=0.0)
    asked: list[int] = []

    def told(stage: str, _done: int, total: int) -> None:
        if stage == "refresh":
            asked.append(total)

    for start in (case.adapter, case.start):
        refresh(case.source, case.target, case.adapter, start, settings, progress=told)

    assert asked == [NEAR[case.source.kind].steps, FAR[case.source.kind].steps]


def test_samples_are_the_same_however_often_they_are_drawn(case: Case) -> None:
    at_once, bit_by_bit = (OwnSamples(case.source, case.adapter, case.settings.probe) for _ in range(2))
    at_once.draw(7)
    for wanted in (2, 5, 7):
        bit_by_bit.draw(wanted)

    first, second = (each.probe(slice(None)) for each in (at_once, bit_by_bit))
    with torch.no_grad():
        outputs = [case.source.run(probe, slice(None)) for probe in (first, second)]

    assert torch.allclose(*outputs, atol=1e-5)


def test_a_site_that_a_conversion_left_empty_begins_at_zero_and_learns(case: Case) -> None:
    matches = {site: site for site in case.base.sites}
    first, *rest = sorted(case.start.updates)
    without = replace(case.start, updates={site: case.start.updates[site] for site in rest})

    whole = completed(without, case.adapter, case.base, matches)

    assert set(whole.updates) == set(case.start.updates)
    assert not bool(whole.low_rank()[first].dense().any())
    assert whole.low_rank()[first].rank == case.adapter.low_rank()[first].rank
    found = refresh(case.source, case.target, case.adapter, whole, replace(case.settings, steps=20))
    assert bool(found.adapter.low_rank()[first].dense().any())
