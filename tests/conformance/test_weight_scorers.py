"""What every weight scorer has to keep. A new file in lorax/weight_scorers is tested here unasked."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lorax.adapter import Adapter, Site
from lorax.scorers import SCORERS
from lorax.weight_figures import plan_matches, weight_figures
from lorax.weight_scorer import WeightCase
from lorax.weight_scorers import WEIGHT_SCORERS
from tests.stand_ins.pairs import Pair, lineage  # noqa: F401 - fixtures
from tests.stand_ins.tiny_bases import make_adapter


@pytest.fixture(params=sorted(WEIGHT_SCORERS))
def scorer(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def case(adapter: Adapter, converted: Adapter, pair: Pair) -> WeightCase:
    plan = pair.plan("auto")
    bases = (pair.source.base, pair.target.base)
    return WeightCase(adapter.low_rank(), converted.low_rank(), plan_matches(plan), *bases, plan)


def test_a_weight_scorer_says_what_it_is_and_where_it_comes_from(scorer: str) -> None:
    found = WEIGHT_SCORERS[scorer]
    assert found.name == scorer
    assert found.summary
    assert found.reference


def test_no_weight_figure_is_called_as_one_that_runs_models(scorer: str) -> None:
    assert scorer not in SCORERS


def test_a_copy_has_a_figure_that_is_finite_and_the_same_each_time(scorer: str, lineage: Pair) -> None:  # noqa: F811
    adapter = make_adapter(lineage.source.base)
    first, second = (WEIGHT_SCORERS[scorer].measure(case(adapter, adapter, lineage)) for _ in range(2))
    assert first is not None
    assert math.isfinite(first)
    assert first == second


def test_an_adapter_without_a_home_has_a_figure_or_none_but_no_error(scorer: str, lineage: Pair) -> None:  # noqa: F811
    adapter = make_adapter(lineage.source.base)
    nowhere = {Site("unet", f"nowhere.{index}"): one for index, one in enumerate(adapter.updates.values())}
    found = WEIGHT_SCORERS[scorer].measure(case(replace(adapter, updates=nowhere), adapter, lineage))
    assert found is None or math.isfinite(found)


def test_numbers_that_are_none_are_never_a_good_figure(scorer: str, lineage: Pair) -> None:  # noqa: F811
    adapter = make_adapter(lineage.source.base)
    site, update = next(iter(adapter.low_rank().items()))
    spoilt = replace(update, up=torch.full_like(update.up, math.nan))
    broken = replace(adapter, updates={**adapter.updates, site: spoilt})
    measure = WEIGHT_SCORERS[scorer].measure
    found, sound = (measure(case(adapter, other, lineage)) for other in (broken, adapter))
    assert found is None or math.isnan(found) or found == sound


def test_all_figures_come_as_exact_ones(lineage: Pair) -> None:  # noqa: F811
    adapter = make_adapter(lineage.source.base)
    plan = lineage.plan("auto")
    found = weight_figures(adapter, adapter, source=lineage.source, target=lineage.target, plan=plan)
    assert set(found) == set(WEIGHT_SCORERS)
    assert all(figure.low == figure.value == figure.high for figure in found.values())
