from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lorax.adapter import Site
from lorax.base_model import BaseModel
from lorax.base_models import known_bases
from lorax.base_pair import correspondence, correspondence_by_weights, rule_for, similarity, without_home
from lorax.block_likeness import best_rising
from lorax.checkpoint import Checkpoint, open_checkpoint
from lorax.correspondence import Stack, evenly


def known(name: str) -> BaseModel:
    return next(base for base in known_bases() if base.name == name)


def stack(depth: int) -> Stack:
    return Stack("model", "layers", depth)


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (3, 3, (0, 1, 2)),
        (10, 4, (0, 3, 6, 9)),
        (10, 2, (0, 9)),
        (2, 1, (0,)),
        (10, 1, (0,)),
        (1, 2, (0, None)),
        (2, 4, (0, None, None, 1)),
        (3, 2, (0, 2)),
    ],
)
def test_stacks_are_spread_evenly_with_their_ends_together(
    source: int, target: int, expected: tuple[int | None, ...]
) -> None:
    assert evenly(stack(source), stack(target)) == expected


@pytest.mark.parametrize("source", range(1, 14))
@pytest.mark.parametrize("target", range(1, 14))
def test_an_even_spread_keeps_the_order_and_loses_nothing_that_fits(source: int, target: int) -> None:
    found = [block for block in evenly(stack(source), stack(target)) if block is not None]
    assert found == sorted(set(found))
    assert len(found) == min(source, target)
    assert set(found) <= set(range(source))


def test_the_spread_back_pairs_the_same_blocks() -> None:
    there = evenly(stack(32), stack(16))
    back = evenly(stack(16), stack(32))
    assert {(block, number) for number, block in enumerate(there)} == {
        (number, block) for number, block in enumerate(back) if block is not None
    }


def test_the_best_rising_pairing_is_the_best_of_all() -> None:
    from itertools import combinations

    likeness = torch.rand(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sums = {each: sum(float(likeness[block, n]) for n, block in enumerate(each)) for each in combinations(range(7), 3)}
    assert best_rising(likeness) == max(sums, key=lambda each: sums[each])


def test_the_best_rising_pairing_of_a_deeper_target_leaves_some_without() -> None:
    likeness = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.0, 0.9, 0.0, 1.0]])
    assert best_rising(likeness) == (None, 0, None, 1)


def test_ties_go_to_the_lower_block() -> None:
    assert best_rising(torch.zeros(4, 2)) == (0, 1)


@pytest.mark.parametrize("target", ["digits-v1", "digits-v2", "digits-slim", "digits-other"])
def test_each_site_of_the_digits_bases_is_fed_by_its_namesake(digits: Path, target: str) -> None:
    source, other = (opened(digits, name) for name in ("digits-v1", target))
    namesakes = {site: site for site in other.base.sites}
    assert correspondence(source.base, other.base) == namesakes
    assert correspondence_by_weights(source, other) == namesakes


def test_what_the_slim_base_lacks_is_without_source_on_the_way_back(digits: Path) -> None:
    slim, full = (opened(digits, name).base for name in ("digits-slim", "digits-v1"))
    found = correspondence(slim, full)
    assert {origin for origin in found.values() if isinstance(origin, str)} == {"no-source-block"}
    assert sum(isinstance(origin, Site) for origin in found.values()) == len(slim.sites)
    assert without_home(slim, full) == frozenset()
    assert len(without_home(full, slim)) == len(full.sites) - len(slim.sites)


def test_weights_tell_which_block_was_cut_out(digits: Path, tmp_path: Path) -> None:
    """Of digits-v1's two transformer blocks the slim base here has the second, under the name of the first."""
    full, slim = opened(digits, "digits-v1"), opened(digits, "digits-slim")
    swapped = second_blocks(full, slim)
    found = correspondence_by_weights(full, swapped)
    site = Site("unet", "up_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q")
    assert correspondence(full.base, slim.base)[site] == site
    assert found[site] == Site("unet", "up_blocks.0.attentions.1.transformer_blocks.1.attn1.to_q")
    assert found[Site("unet", "conv_in")] == Site("unet", "conv_in")


def test_weights_that_are_not_alike_leave_the_even_spread(digits: Path) -> None:
    slim, stranger = opened(digits, "digits-slim"), opened(digits, "digits-other")
    assert correspondence_by_weights(stranger, slim) == correspondence(stranger.base, slim.base)


def second_blocks(full: Checkpoint, slim: Checkpoint) -> Checkpoint:
    """Returns the slim base with each transformer block 0 replaced by block 1 of the full one, where there is one."""

    def place(site: Site) -> Site:
        second = Site(site.component, site.path.replace("transformer_blocks.0.", "transformer_blocks.1."))
        return second if second in full.base.sites else site

    return Checkpoint(slim.base, full.folder, {site: full.places[place(site)] for site in slim.base.sites})


def test_similarity_is_measured_where_shapes_agree(digits: Path) -> None:
    full, slim = opened(digits, "digits-v1"), opened(digits, "digits-slim")
    found = similarity(full, slim)
    assert [each.site for each in found] == [str(site) for site in sorted(slim.base.sites)]
    assert max(each.weight_distance for each in found) < 0.5


def test_the_rule_is_the_most_special_one_that_applies() -> None:
    assert rule_for(known("sd1.5"), known("sd1.5-inpainting")).name == "same-architecture"
    assert rule_for(known("sdxl"), known("ssd-1b")).name == "shortened-attentions"
    assert rule_for(known("bk-sdm-base"), known("bk-sdm-small")).name == "bk-sdm"
    assert rule_for(known("sdxl"), known("llama-3-8b")).name == "unrelated"
    assert rule_for(known("sdxl"), known("sdxl-refiner")).name == "unrelated"


def opened(digits: Path, name: str) -> Checkpoint:
    return open_checkpoint(digits / "bases" / name, name=name)
