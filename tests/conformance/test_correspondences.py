"""What every rule of correspondence has to keep, on pairs of known bases. A new file in the folder is tested too."""

from __future__ import annotations

from functools import cache

import pytest

from lorax.adapter import Site
from lorax.base_model import BaseModel
from lorax.base_models import known_bases
from lorax.base_pair import correspondence, rule_for, without_home
from lorax.correspondence import WITHOUT_SOURCE, backbone, evenly, is_text_encoder
from lorax.correspondences import RULES

# A base with twelve thousand sites is paired with its own family only.
LARGEST = 2_000
MOST = 200


@cache
def pairs_by_rule() -> dict[str, list[tuple[BaseModel, BaseModel]]]:
    """Returns, by the rule that wins, the pairs of known bases: all, or MOST of them spread over all."""
    found: dict[str, list[tuple[BaseModel, BaseModel]]] = {name: [] for name in RULES}
    for source in known_bases():
        for target in known_bases():
            if max(len(source.sites), len(target.sites)) < LARGEST or source.family == target.family:
                found[rule_for(source, target).name].append((source, target))
    return {name: pairs[:: 1 + len(pairs) // MOST] for name, pairs in found.items()}


@pytest.fixture(params=sorted(RULES))
def rule(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_rule_says_what_it_is_and_has_an_order_of_its_own(rule: str) -> None:
    assert RULES[rule].name == rule
    assert RULES[rule].summary
    assert [other.name for other in RULES.values() if other.order == RULES[rule].order] == [rule]


def test_a_rule_wins_for_some_pair_of_known_bases(rule: str) -> None:
    assert pairs_by_rule()[rule]


def test_every_target_site_has_a_source_that_exists_or_a_known_reason(rule: str) -> None:
    for source, target in pairs_by_rule()[rule]:
        found = correspondence(source, target)
        assert list(found) == list(target.sites)
        wrong = {
            site: origin
            for site, origin in found.items()
            if origin not in (source.sites if isinstance(origin, Site) else WITHOUT_SOURCE)
        }
        assert wrong == {}, (source.name, target.name)


def test_a_rule_answers_for_all_sites_outside_the_text_encoders_and_for_no_other(rule: str) -> None:
    for source, target in pairs_by_rule()[rule]:
        assert set(RULES[rule].match(source, target, evenly)) == set(backbone(target)), (source.name, target.name)


def test_no_source_feeds_two_targets_and_what_feeds_none_has_no_home(rule: str) -> None:
    for source, target in pairs_by_rule()[rule]:
        origins = [origin for origin in correspondence(source, target).values() if isinstance(origin, Site)]
        assert len(origins) == len(set(origins)), (source.name, target.name)
        assert without_home(source, target) == set(source.sites) - set(origins)


def test_text_encoders_are_fed_by_text_encoders_of_the_same_shapes(rule: str) -> None:
    for source, target in pairs_by_rule()[rule]:
        for site, origin in correspondence(source, target).items():
            if isinstance(origin, Site) and is_text_encoder(site):
                assert origin.path == site.path
                assert source.sites[origin] == target.sites[site], (source.name, target.name, str(site))


def test_what_feeds_a_site_plays_the_same_role(rule: str) -> None:
    for source, target in pairs_by_rule()[rule]:
        for site, origin in correspondence(source, target).items():
            if isinstance(origin, Site):
                here, there = (path.rpartition(".")[2] for path in (origin.path, site.path))
                assert here == there or {here, there} == {"dense", "o_proj"}, (source.name, target.name, str(site))


def test_a_base_paired_with_itself_feeds_every_site_by_itself() -> None:
    for base in known_bases():
        assert correspondence(base, base) == {site: site for site in base.sites}, base.name
