from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lorax.adapter import Site, SiteShape
from lorax.compile import compile_plan
from lorax.convert import convert_adapters
from lorax.errors import Unsupported
from lorax.method import NoTerm, SiteInputs, SiteStatistics, Term
from lorax.methods.auto import agreement
from lorax.operators import Dense
from tests.lorax.methods.toy import WIDTH, carry, compile_toy, random, rotation, sums
from tests.stand_ins.pairs import Pair, strangers  # noqa: F401 - fixture
from tests.stand_ins.tiny_bases import make_adapter

ROWS = 400


def unrelated() -> SiteStatistics:
    rows = [random(ROWS, WIDTH, seed=seed) for seed in range(4)]
    return sums((rows[0], rows[1]), (rows[2], rows[3]))


def test_between_a_base_and_itself_an_update_comes_back() -> None:
    weight, rows, pulls = random(WIDTH, WIDTH), random(ROWS, WIDTH, seed=1), random(ROWS, WIDTH, seed=2)
    found = compile_toy("auto", weight, weight, statistics=sums((rows, rows), (pulls, pulls)))

    assert isinstance(found, Term)
    assert found.figures["agreement_copy"] == pytest.approx(1.0)
    update = random(WIDTH, WIDTH, seed=3)
    assert torch.allclose(carry(found, update, to=weight), update, atol=1e-5)


def test_a_turned_basis_is_followed_though_copy_is_a_candidate() -> None:
    rows, pulls, turn = random(ROWS, WIDTH, seed=1), random(ROWS, WIDTH, seed=2), rotation()
    weight, update = random(WIDTH, WIDTH), random(WIDTH, WIDTH, seed=3)
    found = compile_toy("auto", weight, turn @ weight, statistics=sums((rows, rows), (pulls, pulls @ turn.T)))

    assert isinstance(found, Term)
    assert found.figures["agreement_copy"] < 0.6
    assert found.figures["agreement_calibrated"] > 0.99
    assert found.figures["chosen_copy"] == 0.0
    moved = carry(found, update, to=weight)
    assert float((moved - turn @ update).norm() / update.norm()) < 0.1


def test_a_site_whose_rows_have_nothing_in_common_gets_no_update() -> None:
    found = compile_toy("auto", random(WIDTH, WIDTH), random(WIDTH, WIDTH, seed=9), statistics=unrelated())

    assert found == NoTerm("would-harm")


def test_without_rows_held_out_there_is_nothing_to_judge_by() -> None:
    found = compile_toy(
        "auto", random(WIDTH, WIDTH), random(WIDTH, WIDTH), statistics=replace(unrelated(), held_out=None)
    )

    assert found == NoTerm("no-activations")


def test_the_agreement_is_the_cosine_of_the_effects_that_random_updates_have() -> None:
    here, there, pull_here, pull_there = (random(80, size, seed=size) for size in (5, 4, 3, 6))
    there, pull_there = there + here[:, :4], pull_there + pull_here.repeat(1, 2)
    outward, inward = random(6, 3, seed=5).abs(), random(4, 5, seed=6).abs()
    term = Term(Dense(outward), Dense(inward))

    found = agreement(term, sums((here, there), (pull_here, pull_there)), site_of(random(3, 5), random(6, 4)))

    # The effect g^T dW x of every gradient's row with every input's row, at home and in the target.
    updates = random(3000, 3, 5, seed=7)
    home = pull_here @ updates @ here.T
    moved = pull_there @ (outward @ updates @ inward.T) @ there.T
    assert found == pytest.approx(float((home * moved).sum() / (home.norm() * moved.norm())), abs=0.01)
    assert abs(found) > 0.1


def test_an_adapter_of_which_nothing_would_keep_its_effect_is_refused_in_those_words(strangers: Pair) -> None:  # noqa: F811
    adapter = make_adapter(strangers.source.base)
    plan = compile_plan(
        strangers.source,
        strangers.target,
        method="auto",
        settings={"least": 2.0},
        probe_id="tiny",
        statistics=strangers.statistics(),  # type: ignore[arg-type]
    )

    (found,) = convert_adapters(plan, [adapter], target=strangers.target.base)

    assert isinstance(found, Unsupported)
    assert found.reason == "would-harm"
    assert {planned.reason for planned in plan.sites} == {"would-harm"}


def site_of(source: Tensor, target: Tensor) -> SiteInputs:
    site = Site("unet", "toy")
    return SiteInputs(
        target=site,
        source=site,
        target_shape=SiteShape.of(tuple(target.shape)),
        source_shape=SiteShape.of(tuple(source.shape)),
        target_weight=lambda: target,
        source_weight=lambda: source,
        statistics=None,
        generator=torch.Generator().manual_seed(0),
    )
