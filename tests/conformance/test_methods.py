"""What every transfer method has to keep, whatever it does. A new file in lorax/methods is tested here unasked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lorax.adapter import Adapter, Site
from lorax.convert import Conversion, convert_adapters
from lorax.method import NoTerm, Product, Setting, SiteStatistics, Term
from lorax.methods import METHODS
from lorax.plan import Plan
from tests.lorax.methods.toy import GAUGES, carry, compile_toy, gauge_error, random, sums
from tests.stand_ins.pairs import Pair, lineage, twins  # noqa: F401 - fixtures
from tests.stand_ins.tiny_bases import make_adapter
from tests.stand_ins.tiny_decoders import DecoderPair, decoder_twins, decoders  # noqa: F401 - fixtures

# Which hidden bases a method finds its way between, and the settings that take its regularisation away. One that is not
# listed promises nothing and has to be seen to fail: index pairing, projections and copies follow no gauge.
FOLLOWS: dict[str, tuple[set[str], dict[str, Setting]]] = {
    "procrustes": ({"rotated", "renumbered", "widened"}, {}),
    "calibrated": (
        {"rotated", "renumbered", "rescaled", "widened"},
        {"stranger_share": 1e-7, "lineage_cosine": 2.0},
    ),
    "auto": ({"rotated", "renumbered", "widened"}, {}),
}
# auto offers no way to take the regularisation of its candidates away.
FOLLOWS_ROUGHLY = {"auto"}
GIVE_BACK: dict[str, Mapping[str, Setting]] = {
    name: method.gives_back for name, method in METHODS.items() if method.gives_back is not None
}
CROSSES_WIDTHS = {"auto", "cross-lora", "procrustes", "calibrated", "zero"}


@pytest.fixture(params=sorted(METHODS))
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def relatives(method: str, request: pytest.FixtureRequest) -> Pair | DecoderPair:
    """Returns a base and a later checkpoint of it, of the kind that the method is for."""
    found = request.getfixturevalue("lineage" if METHODS[method].for_bases == "all" else "decoders")
    assert isinstance(found, Pair | DecoderPair)
    return found


def converted(plan: Plan, adapter: Adapter, pair: Pair | DecoderPair) -> Conversion:
    (found,) = convert_adapters(plan, [adapter], target=pair.target.base)
    assert isinstance(found, Conversion)
    return found


def test_a_method_says_what_it_is_and_where_it_comes_from(method: str) -> None:
    assert METHODS[method].name == method
    assert METHODS[method].summary
    assert METHODS[method].reference


def test_updates_come_out_finite_with_rank_scale_dtype_and_shapes_kept(
    method: str, relatives: Pair | DecoderPair
) -> None:
    adapter = make_adapter(relatives.source.base, match="")
    found = converted(relatives.plan(method), adapter, relatives).adapter

    for site, update in found.updates.items():
        assert torch.isfinite(update.up).all()
        assert torch.isfinite(update.down).all()
        assert update.rank <= adapter.updates[site].rank
        assert update.scale == adapter.updates[site].scale
        assert update.dense().shape == relatives.target.base.sites[site].weight_shape
    assert found.dtype == adapter.dtype
    assert found.base.name == "tiny-v2"


def test_the_factored_result_equals_the_dense_formula(method: str, relatives: Pair | DecoderPair) -> None:
    adapter = make_adapter(relatives.source.base, match="")
    plan = relatives.plan(method)
    found = converted(plan, adapter, relatives).adapter

    for planned in plan.sites:
        if planned.term is None:
            assert planned.target not in found.updates
            continue
        was = adapter.low_rank()[planned.target]
        products = [dense_product(each, planned.term, was.dense()) for each in planned.term.products]
        expected = torch.stack(products).sum(0)
        if planned.term.also and planned.term.keeps_rank:
            expected = cut(expected, rank=was.rank)
        assert torch.allclose(found.updates[planned.target].dense(), expected, atol=1e-5)


def dense_product(product: Product, term: Term, update: torch.Tensor) -> torch.Tensor:
    """Returns O·dW·I with every matrix written out."""
    output = product.output.apply(torch.eye(update.shape[0]))
    if term.per_channel:
        channels = product.input.apply(torch.eye(update.shape[1]))
        return torch.einsum("ab,bc...,dc->ad...", output, update, channels)
    columns = product.input.apply(torch.eye(update[0].numel()))
    return (output @ update.flatten(1) @ columns.T).reshape(output.shape[0], -1, *update.shape[2:])


def cut(matrix: torch.Tensor, *, rank: int) -> torch.Tensor:
    """Returns the best approximation of a rank."""
    left, values, right = torch.linalg.svd(matrix.flatten(1).double(), full_matrices=False)
    return ((left[:, :rank] * values[:rank]) @ right[:rank]).float().reshape(matrix.shape)


def test_an_update_twice_as_strong_comes_out_twice_as_strong(method: str, relatives: Pair | DecoderPair) -> None:
    adapter = make_adapter(relatives.source.base)
    doubled = replace(
        adapter, updates={site: replace(update, up=2 * update.up) for site, update in adapter.updates.items()}
    )
    plan = relatives.plan(method)

    once, twice = (converted(plan, each, relatives).adapter for each in (adapter, doubled))

    for site, update in once.updates.items():
        assert torch.allclose(2 * update.dense(), twice.updates[site].dense(), atol=1e-5)


def test_compiling_twice_gives_the_same_file(method: str, relatives: Pair | DecoderPair, tmp_path: Path) -> None:
    first, second = (relatives.plan(method).save(tmp_path / name) for name in ("a", "b"))

    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("name", sorted(GIVE_BACK))
def test_a_base_paired_with_itself_gives_the_update_back_where_that_is_promised(
    name: str, request: pytest.FixtureRequest
) -> None:
    pair: Pair | DecoderPair = request.getfixturevalue("twins" if METHODS[name].for_bases == "all" else "decoder_twins")
    adapter = inside_the_weights(make_adapter(pair.source.base, match=""), pair)
    found = converted(pair.plan(name, dict(GIVE_BACK[name])), adapter, pair).adapter

    for site, update in adapter.updates.items():
        assert relative_error(found, site, update.dense()) < 1e-4, site


def inside_the_weights(adapter: Adapter, pair: Pair | DecoderPair) -> Adapter:
    """Moves every update into the row and column space of its weight, the only place where LoRA-X promises identity."""
    updates = {}
    for site, update in adapter.updates.items():
        weight = pair.source.weight(site).flatten(1)
        updates[site] = replace(update, up=weight @ update.down.T, down=update.up.T @ weight)
    return replace(adapter, updates=updates)


def relative_error(adapter: Adapter, site: Site, expected: torch.Tensor) -> float:
    return float((adapter.updates[site].dense() - expected).norm() / expected.norm())


@pytest.mark.parametrize("gauge", sorted(GAUGES))
def test_a_method_follows_the_changes_of_hidden_basis_that_it_promises_and_no_other(method: str, gauge: str) -> None:
    gauges, settings = FOLLOWS.get(method, (set(), {}))

    error = gauge_error(method, gauge, settings)

    if gauge in gauges:
        assert error < (0.1 if method in FOLLOWS_ROUGHLY else 0.01)
    else:
        assert error > 0.1


def test_an_update_between_two_widths_comes_out_in_the_target_s_shape_or_is_refused(method: str) -> None:
    here, there = (random(10, 9, seed=1), random(7, 12, seed=2))
    found = compile_toy(method, here, there, statistics=some_statistics(here, there))

    if METHODS[method].for_bases == "language-models":
        assert found == NoTerm("not-a-language-model")
    elif isinstance(found, NoTerm):
        assert found.reason == {"zero": "zero-control", "auto": "would-harm"}.get(method, "shape-differs")
        assert method in {"zero", "auto"} or method not in CROSSES_WIDTHS
    else:
        moved = carry(found, random(10, 9, seed=3), to=there)
        assert moved.shape == there.shape
        assert torch.isfinite(moved).all()


def some_statistics(here: torch.Tensor, there: torch.Tensor) -> SiteStatistics:
    rows = [random(60, size, seed=size) for size in (here.shape[1], there.shape[1], here.shape[0], there.shape[0])]
    return sums((rows[0], rows[1]), (rows[2], rows[3]))


def test_a_weight_of_zeros_yields_finite_operators(method: str) -> None:
    zeros = torch.zeros(6, 6)
    found = compile_toy(method, zeros, zeros, statistics=sums((zeros, zeros), (zeros, zeros)))

    assert torch.isfinite(carry(found, random(6, 6), to=zeros)).all()


def test_a_control_is_called_one() -> None:
    assert {name for name, method in METHODS.items() if method.is_control} == {"permuted", "random", "zero"}
