from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lorax.adapter import Adapter
from lorax.score import ScoreBench
from lorax.site_help import help_by_site, parted
from lorax.tally import Tally
from tests.stand_ins.pairs import SETTINGS, Pair, lineage, twins  # noqa: F401 - fixtures
from tests.stand_ins.tiny_bases import make_adapter

STEP = 1e-3


def faded(adapter: Adapter, factor: float) -> Adapter:
    updates = {site: replace(update, scale=factor * update.scale) for site, update in adapter.low_rank().items()}
    return replace(adapter, updates=updates)


def shuffled(adapter: Adapter) -> Adapter:
    """Returns the adapter with updates of equal shape exchanged."""
    updates = adapter.low_rank()
    places: dict[tuple[object, ...], list[object]] = {}
    for site, one in sorted(updates.items()):
        places.setdefault((one.up.shape, one.down.shape, one.kernel), []).append(site)
    moved = {
        site: updates[sites[(index + 1) % len(sites)]]  # type: ignore[index]
        for sites in places.values()
        for index, site in enumerate(sites)
    }
    return replace(adapter, updates=moved)  # type: ignore[arg-type]


def tally_of(pair: Pair, adapter: Adapter, **candidates: Adapter) -> Tally:
    bench = ScoreBench(pair.source_model, pair.target_model, settings=SETTINGS)
    return bench.tally(adapter, candidates, views=["first-steps"])


def test_a_slope_is_what_a_small_step_along_one_update_does(lineage: Pair) -> None:  # noqa: F811
    adapter = make_adapter(lineage.source.base, strength=0.5)
    model, probe = lineage.target_model, lineage.probe
    with torch.no_grad(), lineage.source_model.patched(adapter):
        rows = probe.batches(100)[0]
        wanted = lineage.source_model.run(probe, rows)
    slopes = help_by_site(model, adapter, probe, [[(rows, wanted)]])[0]
    sites = sorted(adapter.updates)

    def divergence(factor: float, chosen: int) -> float:
        one = replace(faded(adapter, factor), updates={sites[chosen]: faded(adapter, factor).updates[sites[chosen]]})
        with torch.no_grad(), model.patched(one):
            return float(model.geometry.divergence(wanted, model.run(probe, rows)).double().sum())

    assert slopes.shape == (len(sites),)
    for chosen in slopes.abs().topk(3).indices.tolist():
        measured = (divergence(-STEP, chosen) - divergence(STEP, chosen)) / (2 * STEP)
        assert float(slopes[chosen]) == pytest.approx(measured, rel=0.05)


def test_parts_do_not_change_the_sum(lineage: Pair) -> None:  # noqa: F811
    adapter = make_adapter(lineage.source.base)
    model, probe = lineage.target_model, lineage.probe
    found = []
    for count in (1, 2):
        with torch.no_grad():
            parts = [
                [(rows, lineage.source_model.run(probe, rows) + 1) for rows in part]
                for part in parted(model, probe, samples=SETTINGS.samples, parts=count)
            ]
        found.append(help_by_site(model, adapter, probe, parts))

    assert [len(each) for each in found] == [1, 2]
    torch.testing.assert_close(found[0].sum(0), found[1].sum(0), rtol=1e-3, atol=1e-6)


def test_the_very_same_adapter_on_the_very_same_base_pulls_as_at_home(twins: Pair) -> None:  # noqa: F811
    adapter = make_adapter(twins.source.base, strength=0.5)

    figure = tally_of(twins, adapter, converted=adapter).figures()["converted"]["unison"]

    assert figure.value == pytest.approx(1.0, abs=1e-5)
    assert figure.high - figure.low < 1e-5


def test_shuffled_layers_and_flipped_signs_pull_apart(twins: Pair) -> None:  # noqa: F811
    adapter = make_adapter(twins.source.base, strength=0.5)

    found = tally_of(twins, adapter, shuffled=shuffled(adapter), flipped=faded(adapter, -1.0)).figures()

    assert found["shuffled"]["unison"].value < 0.8
    assert found["flipped"]["unison"].value < 0.5


def test_strength_does_not_matter_to_unison(twins: Pair) -> None:  # noqa: F811
    adapter = make_adapter(twins.source.base, strength=0.5)

    found = tally_of(twins, adapter, weak=faded(adapter, 0.1), strong=faded(adapter, 3.0)).figures()

    assert found["weak"]["unison"].value == pytest.approx(found["strong"]["unison"].value, abs=1e-4)


def test_what_changes_nothing_has_no_unison_and_rivals_are_not_asked(twins: Pair) -> None:  # noqa: F811
    adapter = make_adapter(twins.source.base)
    empty = replace(adapter, updates={})

    found = tally_of(twins, adapter, empty=empty, copy=adapter, random=adapter).figures()

    assert "unison" not in found["empty"]
    assert "unison" not in found["zero"]
    assert found["copy"] == found["random"] == {}


def test_further_samples_join_those_that_are_there(twins: Pair) -> None:  # noqa: F811
    adapter = make_adapter(twins.source.base, strength=0.5)
    bench = ScoreBench(twins.source_model, twins.target_model, settings=SETTINGS)
    candidates = {"converted": shuffled(adapter)}
    first = bench.tally(adapter, candidates, views=["first-steps"])
    second = bench.tally(adapter, candidates, settings=replace(SETTINGS, seed=9), views=["first-steps"])

    both = first.with_more(second)

    values = [each.figures()["converted"]["unison"].value for each in (first, second, both)]
    assert min(values[:2]) - 0.05 <= values[2] <= max(values[:2]) + 0.05


def test_weights_are_asked_for_no_gradients_afterwards_as_before(twins: Pair) -> None:  # noqa: F811
    asked = [parameter.requires_grad for parameter in twins.target_model.unet.parameters()]

    tally_of(twins, make_adapter(twins.source.base), converted=make_adapter(twins.source.base))

    assert [parameter.requires_grad for parameter in twins.target_model.unet.parameters()] == asked
    assert all(parameter.grad is None for parameter in twins.target_model.unet.parameters())
