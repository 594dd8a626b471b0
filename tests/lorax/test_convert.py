from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lorax.adapter import LowRank, Site
from lorax.base_models import known_bases
from lorax.checkpoint import Checkpoint
from lorax.compile import compile_plan
from lorax.convert import Conversion, conversion_id, convert_adapters, norm_shares
from lorax.errors import Unsupported
from lorax.method import Setting
from tests.stand_ins.adapter_files import random_adapter
from tests.stand_ins.pairs import Pair, lineage  # noqa: F401 - fixture
from tests.stand_ins.tiny_bases import make_adapter


def test_a_batch_gives_what_one_at_a_time_gives(lineage: Pair) -> None:  # noqa: F811
    plan = lineage.plan("calibrated")
    base = lineage.source.base
    adapters = [
        make_adapter(base, seed=1, rank=2),
        make_adapter(base, seed=2, rank=5, match="conv"),
        make_adapter(base, seed=3, rank=1, match=""),
    ]

    together = convert_adapters(plan, adapters, target=lineage.target.base)

    for adapter, found in zip(adapters, together, strict=True):
        (alone,) = convert_adapters(plan, [adapter], target=lineage.target.base)
        assert isinstance(found, Conversion)
        assert isinstance(alone, Conversion)
        assert set(found.adapter.updates) == set(adapter.updates)
        for site, update in alone.adapter.updates.items():
            assert torch.allclose(update.dense(), found.adapter.updates[site].dense(), atol=1e-6)


def test_copy_reports_every_site_kept_whole(lineage: Pair) -> None:  # noqa: F811
    adapter = make_adapter(lineage.source.base)

    (found,) = convert_adapters(lineage.plan("copy"), [adapter], target=lineage.target.base)

    assert isinstance(found, Conversion)
    assert found.sites_mapped == len(adapter.updates)
    assert all(report.kept_norm == pytest.approx(1.0) for report in found.sites)
    shares = norm_shares(found)
    assert (shares.kept, shares.dropped) == (pytest.approx(1.0), 0.0)


def test_the_report_has_the_norm_of_every_update_whatever_the_ranks_beside_it(lineage: Pair) -> None:  # noqa: F811
    base = lineage.source.base
    adapters = [make_adapter(base, seed=1, rank=2, match=""), make_adapter(base, seed=2, rank=3, strength=7.0)]
    plan = lineage.plan("lora-x", {"energy": 0.5})

    for adapter, found in zip(adapters, convert_adapters(plan, adapters), strict=True):
        assert isinstance(found, Conversion)
        for report in found.sites:
            site = Site.parse(report.site)
            was, now = adapter.low_rank()[site].norm(), found.adapter.low_rank()[site].norm()
            assert report.norm == pytest.approx(was, rel=1e-4)
            assert report.kept_norm * report.norm == pytest.approx(now, rel=1e-3, abs=1e-6)


def test_a_site_that_feeds_two_is_reported_with_both(lineage: Pair) -> None:  # noqa: F811
    plan = lineage.plan("copy")
    first, second = [site for site in plan.sites if site.target.path.endswith("attn1.to_q")][:2]
    twice = replace(plan, sites=(first, replace(second, source=first.source)))
    adapter = make_adapter(lineage.source.base)
    adapter = replace(adapter, updates={first.target: adapter.updates[first.target]})

    (found,) = convert_adapters(twice, [adapter])

    assert isinstance(found, Conversion)
    (report,) = found.sites
    assert report.target == f"{first.target}, {second.target}"
    assert report.kept_norm == pytest.approx(2**0.5)
    assert norm_shares(found).kept == pytest.approx(2.0)


def test_a_projection_never_makes_an_update_longer(lineage: Pair) -> None:  # noqa: F811
    adapter = make_adapter(lineage.source.base, match="")

    (found,) = convert_adapters(lineage.plan("lora-x", {"energy": 0.5}), [adapter], target=lineage.target.base)

    assert isinstance(found, Conversion)
    assert all(report.kept_norm <= 1 + 1e-5 for report in found.sites)
    assert min(report.kept_norm for report in found.sites) < 0.9


def test_every_adapter_of_a_batch_is_brought_to_the_norm_that_the_rule_asks_for(lineage: Pair) -> None:  # noqa: F811
    adapters = [
        make_adapter(lineage.source.base, seed=1, rank=2, match=""),
        make_adapter(lineage.source.base, seed=2, rank=3, match=""),
    ]
    plain, matched = (lineage.plan("lora-x", {"energy": 0.5, "norm_match": wanted}) for wanted in (False, True))
    ratios = {site.target: site.term.norm_ratio for site in matched.sites if site.term is not None}

    found = zip(convert_adapters(plain, adapters), convert_adapters(matched, adapters), strict=True)
    for adapter, (short, long) in zip(adapters, found, strict=True):
        assert isinstance(short, Conversion)
        assert isinstance(long, Conversion)
        kept = {report.site: report.kept_norm for report in long.sites}
        assert set(kept) == {str(site) for site in ratios}
        for site, ratio in ratios.items():
            was, now = adapter.low_rank()[site].norm(), long.adapter.low_rank()[site].norm()
            assert now / was == pytest.approx(ratio, rel=1e-4)
            assert kept[str(site)] == pytest.approx(ratio, rel=1e-4)
            directions = [each.adapter.updates[site].dense().flatten() for each in (short, long)]
            assert torch.cosine_similarity(*directions, dim=0) == pytest.approx(1.0, abs=1e-5)


def test_an_update_that_the_map_takes_away_is_not_made_of_rounding(lineage: Pair) -> None:  # noqa: F811
    plan = lineage.plan("lora-x", {"energy": 0.5, "norm_match": True})
    site = next(site for site in plan.sites if site.target.path.endswith("attn1.to_q"))
    assert site.term is not None
    size = lineage.target.base.sites[site.target].out_features
    outside = torch.linalg.svd(site.term.output.apply(torch.eye(size)))[0][:, -1:]
    adapter = make_adapter(lineage.source.base)
    lost = LowRank(outside, torch.ones(1, size), scale=1.0)
    adapter = replace(adapter, updates={**adapter.updates, site.target: lost})

    (found,) = convert_adapters(plan, [adapter])

    assert isinstance(found, Conversion)
    assert found.adapter.low_rank()[site.target].norm() < 1e-4 * lost.norm()


def test_the_sum_of_two_products_keeps_the_rank_and_the_report_says_what_that_costs(lineage: Pair) -> None:  # noqa: F811
    adapters = [
        make_adapter(lineage.source.base, seed=1, rank=2, match=""),
        make_adapter(lineage.source.base, seed=2, rank=3, match=""),
    ]
    settings: dict[str, Setting] = {"energy": 0.5, "norm_match": False}
    whole, cut = (lineage.plan("prolora", settings | {"keep_rank": kept}) for kept in (False, True))

    for adapter, long, short in zip(
        adapters, convert_adapters(whole, adapters), convert_adapters(cut, adapters), strict=True
    ):
        assert isinstance(long, Conversion)
        assert isinstance(short, Conversion)
        assert not any(report.lost for report in long.sites)
        for report in short.sites:
            site = Site.parse(report.site)
            was, now = long.adapter.low_rank()[site], short.adapter.low_rank()[site]
            assert was.rank == min(2 * adapter.low_rank()[site].rank, was.out_features, was.columns)
            assert now.rank == min(adapter.low_rank()[site].rank, was.rank)
            lost = (was.dense() - now.dense()).norm() ** 2 / was.dense().norm() ** 2
            assert report.lost == pytest.approx(float(lost), abs=1e-4)
        assert max(report.lost for report in short.sites) > 0.01


def test_of_a_site_that_feeds_two_the_report_tells_the_larger_loss(lineage: Pair) -> None:  # noqa: F811
    plan = lineage.plan("prolora", {"energy": 0.5})
    pair = [site for site in plan.sites if site.target.path.endswith("attn1.to_q")][:2]
    adapter = make_adapter(lineage.source.base, match=pair[0].target.path)
    sites = [replace(site, source=pair[0].source) for site in pair]

    alone, both, turned = (
        convert_adapters(replace(plan, sites=tuple(chosen)), [adapter])[0] for chosen in (sites[:1], sites, sites[::-1])
    )

    losses = [found.sites[0].lost for found in (alone, both, turned) if isinstance(found, Conversion)]
    assert losses[1] == losses[2] >= losses[0] > 0
    assert len(losses) == 3


def test_a_sum_is_brought_to_the_norm_of_the_rule_after_it_was_cut(lineage: Pair) -> None:  # noqa: F811
    adapter = make_adapter(lineage.source.base, match="")
    plan = lineage.plan("prolora", {"energy": 0.5, "norm_match": True})

    (found,) = convert_adapters(plan, [adapter])

    assert isinstance(found, Conversion)
    for planned in plan.sites:
        assert planned.term is not None
        was, now = (each.low_rank()[planned.target].norm() for each in (adapter, found.adapter))
        assert now / was == pytest.approx(planned.term.norm_ratio, rel=1e-4)


def test_a_site_that_the_target_lacks_is_reported_with_the_norm_that_is_lost(lineage: Pair) -> None:  # noqa: F811
    adapter = make_adapter(lineage.source.base)
    homeless = Site("unet", "a_block_that_was_removed.attn1.to_q")
    extra = LowRank(torch.ones(4, 1), torch.ones(1, 4), scale=100.0)
    adapter = replace(adapter, updates={**adapter.updates, homeless: extra})

    (found,) = convert_adapters(lineage.plan("copy"), [adapter], target=lineage.target.base)

    assert isinstance(found, Conversion)
    (report,) = [report for report in found.sites if report.target is None]
    assert (report.site, report.reason, report.kept_norm) == (str(homeless), "no-target-site", 0.0)
    assert norm_shares(found).dropped == pytest.approx(1.0, abs=0.01)


def test_an_adapter_without_a_common_site_is_refused_and_costs_the_others_nothing(lineage: Pair) -> None:  # noqa: F811
    good = make_adapter(lineage.source.base)
    lost = replace(good, updates={Site("unet", "elsewhere"): LowRank(torch.ones(4, 1), torch.ones(1, 4), scale=1.0)})

    refused, kept = convert_adapters(lineage.plan("copy"), [lost, good], target=lineage.target.base)

    assert isinstance(refused, Unsupported)
    assert refused.reason == "no-common-site"
    assert isinstance(kept, Conversion)


def test_the_zero_control_is_an_empty_adapter(lineage: Pair) -> None:  # noqa: F811
    adapter = make_adapter(lineage.source.base)

    (found,) = convert_adapters(lineage.plan("zero"), [adapter], target=lineage.target.base)

    assert isinstance(found, Conversion)
    assert not found.adapter.updates


def test_the_random_control_keeps_the_spectrum_and_loses_the_direction(lineage: Pair) -> None:  # noqa: F811
    adapter = make_adapter(lineage.source.base, match="")

    (found,) = convert_adapters(lineage.plan("random"), [adapter], target=lineage.target.base)

    assert isinstance(found, Conversion)
    for site, update in adapter.updates.items():
        was, now = update.dense().flatten(1), found.adapter.updates[site].dense().flatten(1)
        assert torch.allclose(torch.linalg.svdvals(was)[:2], torch.linalg.svdvals(now)[:2], atol=1e-4)
    moved = [
        torch.cosine_similarity(update.dense().flatten(), found.adapter.updates[site].dense().flatten(), dim=0)
        for site, update in adapter.updates.items()
    ]
    assert abs(float(torch.stack(moved).mean())) < 0.1


def test_the_conversion_id_tells_apart_all_that_decides_the_bytes(lineage: Pair) -> None:  # noqa: F811
    plan, target = lineage.plan("copy"), lineage.target.base
    usual = {"plan": plan, "target": target, "dialect": "kohya", "dtype": "float16"}
    ids = {
        conversion_id("a" * 64, **usual),
        conversion_id("b" * 64, **usual),
        conversion_id("a" * 64, **{**usual, "plan": lineage.plan("zero")}),
        conversion_id("a" * 64, **{**usual, "target": lineage.source.base}),
        conversion_id("a" * 64, **{**usual, "dialect": "peft"}),
        conversion_id("a" * 64, **{**usual, "dtype": "bfloat16"}),
    }

    assert len(ids) == 6
    assert conversion_id("a" * 64, **usual) in ids


def test_a_one_by_one_convolution_is_copied_to_a_linear_layer_in_its_shape() -> None:
    bases = {base.name: base for base in known_bases()}
    source, target = (Checkpoint(bases[name], Path(), {}) for name in ("sd1.5", "sd2.1"))
    plan = compile_plan(source, target, method="copy", settings={})
    site = Site("unet", "mid_block.attentions.0.proj_in")
    adapter = random_adapter(source.base, match="mid_block.attentions.0.proj_in", ranks=(2,))

    (found,) = convert_adapters(plan, [adapter])

    assert isinstance(found, Conversion)
    assert adapter.low_rank()[site].kernel == (1, 1)
    assert found.adapter.low_rank()[site].kernel is None
    assert torch.equal(found.adapter.low_rank()[site].down, adapter.low_rank()[site].down)


def test_changes_of_norms_are_copied_where_the_target_has_the_parameter_and_reported_where_not() -> None:
    bases = {base.name: base for base in known_bases()}
    source, target = (Checkpoint(bases[name], Path(), {}) for name in ("sd1.5", "sd2.1"))
    plan = compile_plan(source, target, method="copy", settings={})
    same, longer = (
        Site("unet", "mid_block.resnets.0.norm1.weight"),
        Site("text_encoder", "text_model.final_layer_norm.bias"),
    )
    vectors = {site: torch.ones(source.base.vectors[site]) for site in (same, longer)}
    adapter = replace(random_adapter(source.base, match="mid_block.attentions.0.proj_in"), vectors=vectors)

    (found,) = convert_adapters(plan, [adapter])

    assert isinstance(found, Conversion)
    assert found.adapter.vectors.keys() == {same}
    told = {report.site: (report.target, report.reason) for report in found.sites}
    assert told[str(same)] == (str(same), "vector-copied")
    assert told[str(longer)] == (None, "no-target-site")
