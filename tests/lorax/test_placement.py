from __future__ import annotations

import pytest
import torch

from lorax.adapter import Adapter, LowRank
from lorax.convert import Conversion, convert_adapters
from lorax.method import Product, Term
from lorax.methods import METHODS
from lorax.operators import Dense, Identity, random_signed_permutation
from lorax.placement import EXACT, place_of, precision_for, term_on
from lorax.plan import Plan
from tests.stand_ins.pairs import Pair, lineage  # noqa: F401 - fixture
from tests.stand_ins.tiny_bases import make_adapter

# The tiny pair is a fixture of the session; naming it as an argument is how pytest hands it out.
# ruff: noqa: F811


def converted(plan: Plan, adapter: Adapter) -> Adapter:
    (found,) = convert_adapters(plan, [adapter])
    assert isinstance(found, Conversion)
    return found.adapter


def error(plan: Plan, placed: Plan, adapter: Adapter) -> float:
    """The largest difference between what two placements of one plan give, over the norm before or after."""
    exact, other = (converted(each, adapter).low_rank() for each in (plan, placed))
    return max(
        float((update.dense() - other[site].dense()).norm()) / max(update.norm(), adapter.low_rank()[site].norm())
        for site, update in exact.items()
    )


@pytest.mark.parametrize(
    ("budget", "dtype"),
    [(EXACT, torch.float32), (1.9e-3, torch.float32), (2e-3, torch.float16), (1e-2, torch.bfloat16)],
)
def test_precision_is_as_narrow_as_the_budget_allows(budget: float, dtype: torch.dtype) -> None:
    assert precision_for(budget) == dtype


@pytest.mark.parametrize("budget", [2e-3, 1e-2])
@pytest.mark.parametrize("method", ["calibrated", "procrustes", "lora-x", "prolora", "permuted", "copy-scaled"])
def test_an_update_keeps_within_the_error_budget(lineage: Pair, method: str, budget: float) -> None:
    plan, adapter = lineage.plan(method), make_adapter(lineage.source.base, match="")
    placed = plan.on("cpu", error_budget=budget)
    terms = [site.term for site in placed.sites if site.term is not None]
    places = [place_of(operator for product in term.products for operator in product) for term in terms]
    wanted = torch.float32 if method == "prolora" else precision_for(budget)  # sums that are cut stay exact

    assert {place[1] for place in places if place is not None} == {wanted}
    assert error(plan, placed, adapter) <= budget
    for update in converted(placed, adapter).low_rank().values():
        assert update.up.dtype == update.down.dtype == torch.float32


def test_a_plan_that_is_where_it_should_be_stays_the_same(lineage: Pair) -> None:
    plan = lineage.plan("copy-scaled")
    assert plan.on("cpu") is plan
    assert plan.on("cpu", error_budget=1e-3) is plan


def test_every_method_names_a_place_or_has_identities_alone(lineage: Pair) -> None:
    """Operators without numbers leave factors where they are; all others say where they have to come."""
    for name in METHODS:
        for site in lineage.plan(name).sites:
            if site.term is not None:
                operators = [operator for product in site.term.products for operator in product]
                numbers = [tensor for operator in operators for tensor in operator.tensors().values()]
                assert (place_of(operators) is None) == (not any(tensor.is_floating_point() for tensor in numbers))


def test_all_summands_of_a_term_are_moved_and_whole_numbers_stay_whole() -> None:
    order = random_signed_permutation(4, torch.Generator().manual_seed(0))
    term = Term(Identity(), Dense(torch.eye(4)), also=(Product(order, Identity()),), keeps_rank=False)

    moved = term_on(term, "cpu", torch.float16)

    assert isinstance(moved.output, Identity)
    assert moved.input.tensors()["matrix"].dtype == torch.float16
    assert moved.also[0].output.tensors()["order"].dtype == torch.int32
    assert moved.also[0].output.tensors()["sign"].dtype == torch.float16


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator on this machine")
@pytest.mark.parametrize("method", [name for name in METHODS if name not in {"auto", "random", "zero"}])
def test_a_plan_on_an_accelerator_gives_the_same_updates_in_main_memory(lineage: Pair, method: str) -> None:
    plan, adapter = lineage.plan(method), make_adapter(lineage.source.base, match="")
    if not any(site.term for site in plan.sites):
        pytest.skip("this method has no answer for pictures")
    placed = plan.on("cuda")

    assert error(plan, placed, adapter) <= 1e-4
    assert all(
        isinstance(update, LowRank) and update.up.is_cpu for update in converted(placed, adapter).updates.values()
    )
