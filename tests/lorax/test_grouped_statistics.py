from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from lorax import grouped_statistics, prepare
from lorax.adapter import Site, SiteShape
from lorax.calibration import collect_statistics
from lorax.grouped_statistics import GroupedStatistics, bytes_of
from lorax.method import SiteStatistics
from tests.stand_ins.pairs import SETTINGS, Pair, lineage  # noqa: F401 - fixture

SITES = [Site("unet", f"block.{index}") for index in range(5)]


def of_nothing() -> SiteStatistics:
    empty = torch.zeros(1, 1)
    return SiteStatistics(empty, empty, empty, empty, input_energy=0.0, output_energy=0.0)


class Counted:
    """Collects nothing and remembers for what."""

    def __init__(self) -> None:
        self.calls: list[list[Site]] = []

    def __call__(self, sites: Sequence[Site]) -> dict[Site, SiteStatistics]:
        self.calls.append(list(sites))
        return {site: of_nothing() for site in sites}


def test_sites_are_gathered_in_order_as_many_at_once_as_there_is_room() -> None:
    collect = Counted()
    found = GroupedStatistics(dict(zip(SITES, (4, 4, 4, 20, 1), strict=True)), collect, room=10)

    for site in SITES:
        assert found.get(site) is not None

    assert collect.calls == [SITES[:2], SITES[2:3], SITES[3:4], SITES[4:]]  # the large one has a group of its own
    assert found.passes == 4
    assert list(found) == SITES
    assert len(found) == 5


def test_what_was_gathered_is_let_go_of_before_the_next_is_and_an_unknown_site_is_unknown() -> None:
    collect = Counted()
    found = GroupedStatistics(dict.fromkeys(SITES[:2], 8), collect, room=8)
    first = found[SITES[0]]

    assert found[SITES[0]] is first
    assert found[SITES[1]] is not None
    assert found[SITES[0]] is not first
    assert len(collect.calls) == 3
    assert found.get(SITES[4]) is None


def test_bytes_are_those_of_the_tensors(lineage: Pair) -> None:  # noqa: F811
    site, shape = next((site, shape) for site, shape in lineage.target.base.sites.items() if "conv1" in site.path)
    found = collect_statistics(lineage.source_model, lineage.target_model, pairs={site: site}, probe=lineage.probe)[
        site
    ]
    assert found.held_out is not None
    tensors = [
        getattr(each, name)
        for each in (found, found.held_out)
        for name in ("input_gram", "input_cross", "output_gram", "output_cross")
    ]

    assert bytes_of(shape, shape) == sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert bytes_of(SiteShape(4096, 4096), SiteShape(4096, 4096)) == 1 << 30


def test_a_plan_is_the_same_in_however_many_passes_it_was_calibrated(
    lineage: Pair,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def compiled() -> list[torch.Tensor]:
        plan = prepare.prepare_plan(lineage.source, lineage.target, method="calibrated", settings={}, probe=SETTINGS)
        terms = [site.term for site in plan.sites if site.term is not None]
        return [
            tensor for term in terms for tensor in (*term.output.tensors().values(), *term.input.tensors().values())
        ]

    at_once = compiled()
    passes: list[int] = []

    class Tight(GroupedStatistics):
        def __init__(self, sizes: dict[Site, int], collect: grouped_statistics.Collect) -> None:
            super().__init__(sizes, collect, room=100_000)
            passes.append(self.passes)

    monkeypatch.setattr(prepare, "GroupedStatistics", Tight)
    in_passes = compiled()

    assert passes[0] > 3
    assert all(torch.equal(one, other) for one, other in zip(at_once, in_passes, strict=True))
