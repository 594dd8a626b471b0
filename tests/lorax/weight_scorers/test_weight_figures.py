from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch

from lorax.adapter import Adapter, LowRank, Site
from lorax.algorithms.dora import DoRA
from lorax.convert import Conversion, convert_adapters
from lorax.weight_figures import plan_matches, weight_figures
from tests.stand_ins.pairs import Pair, lineage  # noqa: F401 - fixtures
from tests.stand_ins.tiny_bases import make_adapter


def figures(pair: Pair, adapter: Adapter, converted: Adapter, **more: object) -> dict[str, float]:
    found = weight_figures(adapter, converted, source=pair.source, target=pair.target, **more)  # type: ignore[arg-type]
    return {name: figure.value for name, figure in found.items()}


def scaled(adapter: Adapter, factor: float) -> Adapter:
    updates = {site: replace(update, scale=factor * update.scale) for site, update in adapter.low_rank().items()}
    return replace(adapter, updates=updates)


def without(adapter: Adapter, sites: set[Site]) -> Adapter:
    return replace(adapter, updates={site: each for site, each in adapter.updates.items() if site not in sites})


@pytest.fixture
def adapter(lineage: Pair) -> Adapter:  # noqa: F811
    return make_adapter(lineage.source.base)


def test_a_copy_keeps_everything(lineage: Pair, adapter: Adapter) -> None:  # noqa: F811
    found = figures(lineage, adapter, adapter)
    assert found["kept_norm"] == pytest.approx(1)
    assert found["subspace_agreement"] == pytest.approx(1)
    assert found["missing"] == 0
    assert found["homeless"] == pytest.approx(0, abs=1e-12)
    assert "forecast" not in found


def test_strength_shows_in_the_norm_and_a_sign_nowhere(lineage: Pair, adapter: Adapter) -> None:  # noqa: F811
    assert figures(lineage, adapter, scaled(adapter, 3.0))["kept_norm"] == pytest.approx(3)
    assert figures(lineage, adapter, scaled(adapter, -1.0)) == pytest.approx(figures(lineage, adapter, adapter))


def test_sites_that_are_not_written_are_missing_by_their_share_of_the_norm(
    lineage: Pair,  # noqa: F811
    adapter: Adapter,
) -> None:
    squares = {site: update.norm() ** 2 for site, update in adapter.low_rank().items()}
    gone = set(sorted(adapter.updates)[::2])
    found = figures(lineage, adapter, without(adapter, gone))
    share = sum(squares[site] for site in gone) / sum(squares.values())
    assert found["missing"] == pytest.approx(share)
    assert found["kept_norm"] == pytest.approx((1 - share) ** 0.5)
    assert found["subspace_agreement"] == pytest.approx(1)


def test_an_update_of_zero_is_missing_as_well(lineage: Pair, adapter: Adapter) -> None:  # noqa: F811
    site = next(iter(adapter.updates))
    empty = replace(adapter.low_rank()[site], scale=0.0)
    found = figures(lineage, adapter, replace(adapter, updates={**adapter.updates, site: empty}))
    assert found == pytest.approx(figures(lineage, adapter, without(adapter, {site})))


def test_what_the_target_has_no_site_for_is_homeless_and_not_missing(
    lineage: Pair,  # noqa: F811
    adapter: Adapter,
) -> None:
    matches = {site: site for site in lineage.target.base.sites}
    gone = set(sorted(adapter.updates)[::3])
    left: Mapping[Site, Site | str] = {site: "no-such-site" if site in gone else home for site, home in matches.items()}
    found = figures(lineage, adapter, without(adapter, gone), matches=left)
    squares = {site: update.norm() ** 2 for site, update in adapter.low_rank().items()}
    assert found["homeless"] == pytest.approx(sum(squares[site] for site in gone) / sum(squares.values()))
    assert found["missing"] == 0
    assert found["kept_norm"] == pytest.approx(1)


def test_another_adapter_agrees_no_more_than_chance(lineage: Pair, adapter: Adapter) -> None:  # noqa: F811
    found = figures(lineage, adapter, make_adapter(lineage.source.base, seed=5))
    assert abs(found["subspace_agreement"]) < 0.15


def test_directions_are_compared_whatever_factors_they_are_written_with(
    lineage: Pair,  # noqa: F811
    adapter: Adapter,
) -> None:
    mixing = torch.tensor([[2.0, 1.0], [0.0, -0.5]])
    updates = {
        site: LowRank(one.up @ mixing, torch.linalg.solve(mixing, one.down), one.scale, one.kernel)
        for site, one in adapter.low_rank().items()
    }
    found = figures(lineage, adapter, replace(adapter, updates=updates))
    assert found["subspace_agreement"] == pytest.approx(1, abs=1e-5)
    assert found["kept_norm"] == pytest.approx(1, abs=1e-5)


def test_a_plan_that_judged_its_sites_gives_its_forecast(lineage: Pair, adapter: Adapter) -> None:  # noqa: F811
    plan = lineage.plan("auto")
    (result,) = convert_adapters(plan, [adapter], target=lineage.target.base)
    assert isinstance(result, Conversion)
    terms = {site.source: site.term.figures for site in plan.sites if site.term is not None}
    squares = {site: update.norm() ** 2 for site, update in adapter.low_rank().items()}
    expected = 0.0
    for site, square in squares.items():
        told = terms[site]
        chosen = next(name for name in ("calibrated", "copy") if told.get(f"chosen_{name}"))
        expected += square * told[f"agreement_{chosen}"] * abs(told[f"agreement_{chosen}"])
    assert figures(lineage, adapter, result.adapter, plan=plan)["forecast"] == pytest.approx(
        expected / sum(squares.values())
    )
    assert "forecast" not in figures(lineage, adapter, result.adapter, plan=lineage.plan("copy"))


def test_a_plan_knows_the_correspondence_that_is_found_without_it(lineage: Pair) -> None:  # noqa: F811
    matches = plan_matches(lineage.plan("copy"))
    assert matches == {site: site for site in lineage.target.base.sites}


def test_updates_of_other_algorithms_are_lowered_first(lineage: Pair, adapter: Adapter) -> None:  # noqa: F811
    site = next(site for site in adapter.updates if site.component == "unet")
    magnitude = lineage.source.weight(site).flatten(1).norm(dim=1) * 1.5
    rich = replace(adapter, updates={site: DoRA(adapter.low_rank()[site], magnitude, per_output=True)})
    found = figures(lineage, rich, without(adapter, set(adapter.updates) - {site}))
    change = rich.updates[site].dense(lineage.source.weight(site))
    assert found["kept_norm"] == pytest.approx(adapter.low_rank()[site].norm() / float(change.norm()), rel=1e-3)
