from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from lorax.adapter import Adapter
from lorax.gate import GateSettings
from lorax.judging import Asked, further, score_and_judge
from lorax.probe import ProbeSettings
from lorax.score import ScoreBench
from lorax.score_card import ScoreCard
from lorax.score_settings import ScoreSettings
from lorax.scorer import Figure
from lorax.tally import LEADING, Tally
from lorax.views import VIEWS
from tests.stand_ins.pairs import SETTINGS, Pair, twins  # noqa: F401 - fixtures
from tests.stand_ins.tiny_bases import make_adapter

GATE = GateSettings(divergence_gain=0.5, margin_over_random=-9.0, allowed_under_copy=9.0)
PROBE = ProbeSettings(prompts=("a",), samples=8, seed=3)


@dataclass
class Bench:
    """Stands in for a bench whose samples all show the same gains; remembers which probes it was asked for.

    gains: of each sample in turn, over and over.
    """

    gains: tuple[float, ...]
    score_settings: ScoreSettings
    settings: ProbeSettings = PROBE
    probes: list[tuple[ProbeSettings, Collection[str] | None]] = field(default_factory=list)

    def tally(
        self,
        _adapter: object,
        candidates: Mapping[str, object],
        *,
        examples: Sequence[str] = (),
        settings: ProbeSettings | None = None,
        views: Collection[str] | None = None,
    ) -> Tally:
        assert tuple(examples) == ("shown",)
        probe = settings or self.settings
        self.probes.append((probe, views))
        left = torch.tensor([1 - self.gains[index % len(self.gains)] for index in range(probe.samples)]).double()
        own = torch.stack([left, torch.ones_like(left)], dim=1)
        return Tally({**{name: {LEADING: own} for name in candidates}, "zero": {LEADING: torch.ones_like(own)}})

    def card(
        self, _adapter: object, tally: Tally, *, fingerprints: Sequence[str], examples: Sequence[str]
    ) -> ScoreCard:
        assert tuple(examples) == ("shown",)
        return ScoreCard(tally.figures(), str(fingerprints), tally.margins(), tally.samples, "language")


def judged(
    gains: tuple[float, ...], *, rounds: int = 2, exact: Mapping[str, Figure] | None = None
) -> tuple[Bench, ScoreCard, str]:
    bench = Bench(gains, ScoreSettings(rounds=rounds))
    asked = Asked(None, {"converted": None}, ("shown",), ("a", "b"), exact or {})  # type: ignore[arg-type, dict-item]
    card, verdict = score_and_judge(bench, asked, GATE)  # type: ignore[arg-type]
    return bench, card, verdict.outcome


@pytest.mark.parametrize(("gains", "expected"), [((0.8, 0.9), "pass"), ((0.1, 0.2), "fail")])
def test_a_verdict_that_is_certain_costs_one_round(gains: tuple[float, ...], expected: str) -> None:
    bench, card, outcome = judged(gains)
    assert outcome == expected
    assert [probe for probe, _ in bench.probes] == [PROBE]
    assert card.samples == PROBE.samples


@pytest.mark.parametrize("rounds", [0, 1, 2, 3])
def test_what_stays_uncertain_gets_as_many_rounds_as_there_are_and_no_more(rounds: int) -> None:
    bench, card, outcome = judged((-0.5, 1.5), rounds=rounds)
    assert outcome == "uncertain"
    assert len(bench.probes) == rounds + 1
    assert card.samples == PROBE.samples << rounds


def test_rounds_end_when_the_verdict_is_certain() -> None:
    """Half a gain more than the threshold, with samples so far apart that eight of them do not tell."""
    bench, card, outcome = judged((0.1, 1.1), rounds=6)
    assert outcome == "pass"
    assert 1 < len(bench.probes) < 7
    assert card.figures["converted"][LEADING].low >= 0.5


def test_every_round_doubles_the_samples_and_draws_others() -> None:
    probes = [PROBE, *(further(PROBE, number) for number in range(3))]
    assert [probe.samples for probe in probes] == [8, 8, 16, 32]
    seeds = [probe.seed for probe in probes]
    # Probes use the numbers next to their seed as well, calibration that which is 1000 higher.
    assert all(abs(first - second) > 2000 for first in seeds for second in seeds if first != second)
    assert len(set(seeds)) == 4
    assert all(replace(probe, samples=8, seed=3) == PROBE for probe in probes)


def test_further_rounds_leave_out_what_is_the_same_for_every_seed() -> None:
    bench, _, _ = judged((-0.5, 1.5), rounds=1)
    (_, first), (_, second) = bench.probes
    assert first is None
    assert set(second or ()) == {name for name, view in VIEWS.items() if not view.once} < {*VIEWS, "more"}


def test_figures_that_need_no_samples_are_judged_and_stand_on_the_card() -> None:
    _, card, outcome = judged((0.8, 0.9), exact={"missing": Figure.exact(0.5)})
    assert outcome == "fail"
    assert card.figures["converted"]["missing"] == Figure.exact(0.5)
    assert "missing" not in card.figures["zero"]


def test_what_fails_without_samples_is_not_looked_at_again() -> None:
    bench, _, outcome = judged((-0.5, 1.5), rounds=3, exact={"missing": Figure.exact(0.5)})
    assert outcome == "fail"
    assert len(bench.probes) == 1


@pytest.fixture(scope="module")
def real(twins: Pair) -> tuple[ScoreBench, Adapter]:  # noqa: F811
    score = ScoreSettings(rounds=1)
    bench = ScoreBench(twins.source_model, twins.target_model, settings=SETTINGS, score=score)
    return bench, make_adapter(twins.source.base, strength=0.5)


def test_a_bench_goes_on_from_the_samples_that_it_has(real: tuple[ScoreBench, Adapter]) -> None:
    bench, adapter = real
    half = replace(adapter, updates={site: adapter.updates[site] for site in sorted(adapter.updates)[::2]})
    once = bench.score(adapter, {"converted": half})
    edge = GateSettings(once.figures["converted"][LEADING].value, least={"unison": 0.0})

    card, _ = score_and_judge(bench, Asked(adapter, {"converted": half}), edge)

    assert card.samples == 2 * once.samples
    assert card.figures["converted"][LEADING] != once.figures["converted"][LEADING]


def test_sums_of_tallies_are_of_samples_and_not_of_rows(real: tuple[ScoreBench, Adapter]) -> None:
    bench, adapter = real
    found: Tensor = bench.tally(adapter, {"converted": adapter}).sums["converted"][LEADING]
    assert len(found) == SETTINGS.samples
