"""What every transfer method has to keep, whatever it does. A new file in lorax/methods is tested here unasked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lorax.adapter import Adapter, Site
from lorax.convert import Conversion, convert_adapters
from lorax.method import Term
from lorax.methods import METHODS
from lorax.plan import Plan
from tests.stand_ins.pairs import Pair, lineage, twins  # noqa: F401 - fixtures
from tests.stand_ins.tiny_bases import make_adapter

# Settings under which a method promises to give an update back unchanged when source and target are the same base.
PROMISES_IDENTITY = {"copy": {}, "lora-x": {"energy": 1.0, "most": 10_000}, "calibrated": {"input_strength": 1e-6}}


@pytest.fixture(params=sorted(METHODS))
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def converted(plan: Plan, adapter: Adapter, pair: Pair) -> Conversion:
    (found,) = convert_adapters(plan, [adapter], target=pair.target.base)
    assert isinstance(found, Conversion)
    return found


def test_a_method_says_what_it_is_and_where_it_comes_from(method: str) -> None:
    assert METHODS[method].name == method
    assert METHODS[method].summary
    assert METHODS[method].reference


def test_updates_come_out_finite_with_rank_scale_dtype_and_shapes_kept(method: str, lineage: Pair) -> None:  # noqa: F811
    adapter = make_adapter(lineage.source.base, match="")
    found = converted(lineage.plan(method), adapter, lineage).adapter

    for site, update in found.updates.items():
        assert torch.isfinite(update.up).all()
        assert torch.isfinite(update.down).all()
        assert update.rank <= adapter.updates[site].rank
        assert update.scale == adapter.updates[site].scale
        assert update.dense().shape == lineage.target.base.sites[site].weight_shape
    assert found.dtype == adapter.dtype
    assert found.base.name == "tiny-v2"


def test_the_factored_result_equals_the_dense_formula(method: str, lineage: Pair) -> None:  # noqa: F811
    adapter = make_adapter(lineage.source.base, match="")
    plan = lineage.plan(method)
    found = converted(plan, adapter, lineage).adapter

    for planned in plan.sites:
        if planned.term is None:
            assert planned.target not in found.updates
            continue
        expected = dense_formula(planned.term, adapter.updates[planned.target].dense())
        assert torch.allclose(found.updates[planned.target].dense(), expected, atol=1e-5)


def dense_formula(term: Term, update: torch.Tensor) -> torch.Tensor:
    """Returns O·dW·I with every matrix written out."""
    output = term.output.apply(torch.eye(update.shape[0]))
    if term.per_channel:
        channels = term.input.apply(torch.eye(update.shape[1]))
        return torch.einsum("ab,bc...,dc->ad...", output, update, channels)
    columns = term.input.apply(torch.eye(update[0].numel()))
    return (output @ update.flatten(1) @ columns.T).reshape(update.shape)


def test_an_update_twice_as_strong_comes_out_twice_as_strong(method: str, lineage: Pair) -> None:  # noqa: F811
    adapter = make_adapter(lineage.source.base)
    doubled = replace(
        adapter, updates={site: replace(update, up=2 * update.up) for site, update in adapter.updates.items()}
    )
    plan = lineage.plan(method)

    once, twice = (converted(plan, each, lineage).adapter for each in (adapter, doubled))

    for site, update in once.updates.items():
        assert torch.allclose(2 * update.dense(), twice.updates[site].dense(), atol=1e-5)


def test_compiling_twice_gives_the_same_file(method: str, lineage: Pair, tmp_path: Path) -> None:  # noqa: F811
    first, second = (lineage.plan(method).save(tmp_path / name) for name in ("a", "b"))

    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("name", sorted(PROMISES_IDENTITY))
def test_a_base_paired_with_itself_gives_the_update_back(name: str, twins: Pair) -> None:  # noqa: F811
    adapter = inside_the_weights(make_adapter(twins.source.base, match=""), twins)
    found = converted(twins.plan(name, dict(PROMISES_IDENTITY[name])), adapter, twins).adapter

    for site, update in adapter.updates.items():
        assert relative_error(found, site, update.dense()) < 1e-4, site


def inside_the_weights(adapter: Adapter, pair: Pair) -> Adapter:
    """Moves every update into the row and column space of its weight, the only place where LoRA-X promises identity."""
    updates = {}
    for site, update in adapter.updates.items():
        weight = pair.source.weight(site).flatten(1)
        updates[site] = replace(update, up=weight @ update.down.T, down=update.up.T @ weight)
    return replace(adapter, updates=updates)


def relative_error(adapter: Adapter, site: Site, expected: torch.Tensor) -> float:
    return float((adapter.updates[site].dense() - expected).norm() / expected.norm())


def test_a_control_is_called_one() -> None:
    assert {name for name, method in METHODS.items() if method.is_control} == {"random", "zero"}
