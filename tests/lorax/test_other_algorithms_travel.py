"""Updates of every algorithm that is read go through plans: lowered on the source base, then carried like any LoRA."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lorax.adapter import Adapter, BaseVerdict, LowRank, Site, SiteShape, Update
from lorax.algorithm import Algorithm
from lorax.algorithms.dora import DoRA
from lorax.base_model import BaseModel
from lorax.convert import Conversion, convert_adapters
from lorax.lowering import LoweredAdapter, lower_adapter
from lorax.method import Setting, Term
from lorax.plan import Plan, PlanHead, PlannedSite
from tests.conformance.test_algorithms import MOVED, base_weight, example, named, read, shapes_of
from tests.lorax.methods.toy import compile_toy, random

SITE = Site("unet", "mid_block.toy")
METHODS: list[tuple[str, dict[str, Setting]]] = [
    ("copy", {}),
    ("lora-x", {"energy": 0.9}),
    ("prolora", {"energy": 0.9, "keep_rank": False}),
]


def adapter_of(update: Update) -> Adapter:
    verdict = BaseVerdict("source", "stable-diffusion", "custom")
    return Adapter({SITE: update}, "kohya", (update.algorithm,), torch.float32, {}, (), verdict, "0" * 64)


def carried(
    update: Update, weights: tuple[Tensor, Tensor], *, method: str, settings: dict[str, Setting], rank: int
) -> tuple[LoweredAdapter, Tensor]:
    """Returns the adapter as factors and the change that comes out at the target."""
    here, there = weights
    lowered = lower_adapter(adapter_of(update), lambda _site: here, rank=rank)
    term = compile_toy(method, here, there, settings=settings)
    assert isinstance(term, Term)
    bases = [
        BaseModel(name, "stable-diffusion", "custom", {SITE: SiteShape.of(tuple(weight.shape))})
        for name, weight in zip(("source", "target"), weights, strict=True)
    ]
    plan = Plan(PlanHead("key", method, settings, *bases), (PlannedSite(SITE, SITE, term),))
    (found,) = convert_adapters(plan, [lowered.adapter])
    assert isinstance(found, Conversion)
    (report,) = found.sites
    assert report.target == str(SITE)
    return lowered, found.adapter.low_rank()[SITE].dense()


@pytest.mark.parametrize(("method", "settings"), METHODS, ids=[method for method, _ in METHODS])
@named(MOVED)
def test_an_update_of_any_algorithm_is_carried_as_its_dense_change_would_be(
    algorithm: Algorithm, method: str, settings: dict[str, Setting]
) -> None:
    for shape in shapes_of(algorithm):
        here = base_weight(shape)
        there = here + 0.1 * random(*shape.weight_shape, seed=1)
        update = read(algorithm, example(algorithm, shape), shape)
        change = update.dense(here)

        # All the rank that the weight can have, so that lowering loses nothing and the formulas can be compared.
        _, found = carried(update, (here, there), method=method, settings=settings, rank=12)

        as_lora = LowRank(torch.eye(12), change.flatten(1), 1.0, update.kernel)
        _, expected = carried(as_lora, (here, there), method=method, settings=settings, rank=12)
        assert torch.allclose(found, expected, atol=2e-4 * float(expected.abs().max())), shape


def trained_dora(weight: Tensor, *, spread: float, strength: float) -> DoRA:
    """Returns a DoRA of rank 8 whose gains have this spread, and whose sum of factors is so large against W."""
    inner = LowRank(random(len(weight), 8, seed=2), random(8, weight.shape[1], seed=3), 1.0)
    inner = LowRank(inner.up * (strength * float(weight.norm()) / inner.norm()), inner.down, 1.0)
    gains = 1 + spread * random(len(weight), seed=4)
    return DoRA(inner, gains * (weight + inner.dense()).norm(dim=1), per_output=True)


@pytest.mark.parametrize(("spread", "told"), [(0.003, 0.0011), (0.01, 0.012), (0.03, 0.079), (0.1, 0.23)])
def test_what_lowering_loses_of_a_dora_is_the_tail_of_its_gains_and_is_told(spread: float, told: float) -> None:
    weight = random(320, 320, seed=1) / 320**0.5
    update = trained_dora(weight, spread=spread, strength=0.05)
    change = update.dense(weight)

    lowered, found = carried(update, (weight, weight), method="copy", settings={}, rank=64)

    lost = float((change - found).norm() ** 2 / change.norm() ** 2)
    assert lost == pytest.approx(told, rel=0.1)
    assert lowered.lost[SITE] == pytest.approx(lost, rel=0.02)
    # What a conversion keeps that knows only the factors and forgets the magnitude.
    forgotten = float((change - update.inner.dense()).norm() ** 2 / change.norm() ** 2)
    assert lost < 0.3 * forgotten


@pytest.mark.parametrize(
    ("dtype", "most"), [(torch.float32, 1e-10), (torch.float16, 5e-5), (torch.bfloat16, 2e-3)], ids=str
)
@pytest.mark.parametrize(("spread", "lowered"), [(0.003, 0.0011), (0.01, 0.012), (0.03, 0.081), (0.1, 0.235)])
def test_on_a_later_checkpoint_gains_that_are_carried_lose_only_what_the_file_rounds(
    spread: float, lowered: float, dtype: torch.dtype, most: float
) -> None:
    here = random(320, 320, seed=1) / 320**0.5
    there = here + 0.1 * random(320, 320, seed=5) / 320**0.5
    update = trained_dora(here, spread=spread, strength=0.05)
    # The gains of the rows are what DoRA trains; the target's own magnitude is gain * ||W_t + dW||.
    gain = update.gain(here)
    wanted = (gain - 1) * there + gain * update.inner.dense()

    factors = update.inner.low_rank()
    assert factors is not None
    rounded = LowRank(factors.up.to(dtype).float(), factors.down.to(dtype).float(), factors.scale)
    carried_on = DoRA.of_gain(rounded, gain, there, per_output=True)
    found = DoRA(rounded, carried_on.magnitude.to(dtype).float(), per_output=True).dense(there)
    _, as_lora = carried(update, (here, there), method="copy", settings={}, rank=64)

    def lost(change: Tensor) -> float:
        return float((wanted - change).norm() ** 2 / wanted.norm() ** 2)

    assert lost(found) < most
    assert lost(as_lora) == pytest.approx(lowered, rel=0.1)
