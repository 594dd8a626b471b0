"""Each method against its formula, written out densely in float64 from the papers and not from the code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lorax.errors import Stop
from lorax.method import Setting, Term
from lorax.methods import METHODS
from lorax.operators import SignedPermutation
from tests.lorax.methods.toy import carry, compile_toy, random, sums

SHAPE = (20, 14)


def near(weight: Tensor) -> Tensor:
    return weight + 0.2 * random(*weight.shape, seed=99)


def spread(*shape: int, seed: int) -> Tensor:
    """Returns a weight whose singular values fall off, so that a rank rule has something to decide."""
    left, _, right = torch.linalg.svd(random(*shape, seed=seed), full_matrices=False)
    return left @ torch.diag(torch.logspace(0.5, -1.5, min(shape))) @ right


def bases(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    left, _, right = torch.linalg.svd(weight.double(), full_matrices=False)
    return left[:, :rank], right[:rank].T


def rank_for(weight: Tensor, energy: float) -> int:
    squares = torch.linalg.svdvals(weight.double()).square()
    return int((squares.cumsum(0) < energy * squares.sum()).sum()) + 1


def lora_x(source: Tensor, target: Tensor, update: Tensor, settings: dict[str, Setting]) -> Tensor:
    del source
    left, right = bases(target, rank_for(target, float(settings["energy"])))
    return left @ left.T @ update @ right @ right.T


def prolora(source: Tensor, target: Tensor, update: Tensor, settings: dict[str, Setting]) -> Tensor:
    """Returns the parallel and the perpendicular part of step 3; with the two cross blocks in the full form."""
    energy = float(settings["energy"])
    parts_s, parts_t = [_projectors(weight, energy) for weight in (source, target)]
    total = torch.zeros_like(update)
    for row in (0, 1):
        for column in (0, 1) if settings.get("form") == "full" else (row,):
            block = parts_s[0][row] @ update @ parts_s[1][column]
            total += parts_t[0][row] @ block @ parts_t[1][column]
    return total


def _projectors(weight: Tensor, energy: float) -> list[tuple[Tensor, Tensor]]:
    both = [basis @ basis.T for basis in bases(weight, rank_for(weight, energy))]
    return [(inside, torch.eye(len(inside)).double() - inside) for inside in both]


def cross_lora(source: Tensor, target: Tensor, update: Tensor, settings: dict[str, Setting]) -> Tensor:
    """Returns equation 7 with the alignment by least squares, as LoRA-Align says it."""
    rank = int(settings["rank"])
    left_s, right_s = bases(source, rank)
    left_t, right_t = bases(target, rank)
    align_left, align_right = left_t @ torch.linalg.pinv(left_s), right_t @ torch.linalg.pinv(right_s)
    if source.shape != target.shape:
        return align_left @ update @ align_right.T
    left, right = align_left @ left_s, align_right @ right_s
    return left @ (left.T @ update @ right) @ right.T


def copy_scaled(source: Tensor, target: Tensor, update: Tensor, settings: dict[str, Setting]) -> Tensor:
    del settings
    return update * target.double().norm() / source.double().norm()


FORMULAS = {"lora-x": lora_x, "prolora": prolora, "cross-lora": cross_lora, "copy-scaled": copy_scaled}
CASES: list[tuple[str, dict[str, Setting]]] = [
    ("lora-x", {"energy": 0.8}),
    ("prolora", {"energy": 0.8}),
    ("prolora", {"energy": 0.8, "form": "full"}),
    ("cross-lora", {"rank": 5}),
    ("copy-scaled", {}),
]


@pytest.mark.parametrize("shape", [SHAPE, SHAPE[::-1], (40, 6)], ids=str)
@pytest.mark.parametrize(("method", "settings"), CASES, ids=str)
def test_the_operators_are_the_dense_formula(method: str, settings: dict[str, Setting], shape: tuple[int, int]) -> None:
    source = spread(*shape, seed=1)
    target = near(source)
    update = random(shape[0], 3, seed=2) @ random(3, shape[1], seed=3)

    found = carry(compile_toy(method, source, target, settings=settings), update, to=target)

    expected = FORMULAS[method](source, target, update.double(), settings).float()
    assert torch.allclose(found, expected, atol=1e-5)


def test_the_operators_of_a_convolution_act_on_all_columns() -> None:
    source = spread(10, 36, seed=1).reshape(10, 4, 3, 3)
    target = near(source)
    update = random(10, 36, seed=2)

    term = compile_toy("lora-x", source, target, settings={"energy": 0.8})

    expected = lora_x(source.flatten(1), target.flatten(1), update.double(), {"energy": 0.8}).float()
    assert torch.allclose(carry(term, update, to=target), expected, atol=1e-5)


def test_cross_lora_pairs_singular_vectors_by_index_between_two_widths_up_to_their_signs() -> None:
    source, target = spread(12, 9, seed=1), spread(16, 11, seed=2)
    update = random(12, 9, seed=3)

    found = carry(compile_toy("cross-lora", source, target, settings={"rank": 4}), update, to=target)

    expected = cross_lora(source, target, update.double(), {"rank": 4}).float()
    left, right = (basis.float() for basis in bases(target, 4))
    # The signs of singular vectors are nobody's: the two agree in the size of every coordinate.
    assert torch.allclose((left.T @ found @ right).abs(), (left.T @ expected @ right).abs(), atol=1e-5)


def test_procrustes_is_the_best_isometry_on_both_sides() -> None:
    rows = [random(90, size, seed=size) for size in (14, 15, 20, 21)]
    statistics = sums((rows[0], rows[1]), (rows[2], rows[3]))
    source, target, update = random(20, 14), random(21, 15), random(20, 14, seed=5)

    found = carry(compile_toy("procrustes", source, target, statistics=statistics), update, to=target)

    maps = []
    for here, there in ((rows[0], rows[1]), (rows[2], rows[3])):
        left, _, right = torch.linalg.svd((there.T @ here).double(), full_matrices=False)
        maps.append((left @ right).float())
    assert torch.allclose(found, maps[1] @ update @ maps[0].T, atol=1e-5)


def test_permuted_moves_rows_and_leaves_inputs_alone() -> None:
    weight, update = random(8, 5), random(8, 5, seed=1)

    term = compile_toy("permuted", weight, weight)

    assert isinstance(term, Term)
    assert isinstance(term.output, SignedPermutation)
    found = carry(term, update, to=weight)
    assert not torch.equal(found, update)
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, update.tolist()))


@pytest.mark.parametrize("method", ["lora-x", "prolora", "cross-lora", "procrustes"])
def test_a_matched_norm_follows_the_weights_norms_and_moves_no_direction(method: str) -> None:
    source = spread(*SHAPE, seed=1)
    target = 3 * near(source)
    probe = random(60, SHAPE[1], seed=4), random(60, SHAPE[0], seed=5)
    statistics = sums((probe[0], probe[0]), (probe[1], probe[1]))

    plain, matched = (
        compile_toy(method, source, target, settings={"norm_match": wanted}, statistics=statistics)
        for wanted in (False, True)
    )

    assert isinstance(plain, Term)
    assert isinstance(matched, Term)
    assert plain.norm_ratio is None
    assert matched.norm_ratio == pytest.approx(float(target.norm() / source.norm()))
    update = random(*SHAPE)
    assert torch.equal(carry(plain, update, to=target), carry(matched, update, to=target))


def test_the_correction_is_off_unless_asked_for() -> None:
    methods = [method for method in METHODS.values() if "norm_match" in method.settings]

    assert {method.name for method in methods} == {"lora-x", "prolora", "cross-lora", "procrustes", "lorasuite"}
    assert not any(method.settings["norm_match"] for method in methods)


def test_prolora_in_full_gives_back_what_lies_outside_the_leading_subspace_too_and_as_printed_not() -> None:
    weight, update = spread(*SHAPE, seed=1), random(*SHAPE, seed=2)

    full, printed = (
        carry(compile_toy("prolora", weight, weight, settings={"energy": 0.5, "form": form}), update, to=weight)
        for form in ("full", "printed")
    )

    assert torch.allclose(full, update, atol=1e-5)
    assert 0.5 < float(printed.norm() / update.norm()) < 0.98


def test_a_form_that_prolora_does_not_have_is_named_beside_those_it_has() -> None:
    weight = spread(*SHAPE, seed=1)

    with pytest.raises(Stop, match=r"'prnted'.*'printed' or 'full'"):
        compile_toy("prolora", weight, weight, settings={"form": "prnted"})


@pytest.mark.parametrize("method", ["lora-x", "prolora"])
def test_weights_with_unlike_subspaces_get_no_update_where_likeness_is_asked_for(method: str) -> None:
    settings: dict[str, Setting] = {"energy": 0.5, "least_overlap": 0.8}
    source = spread(40, 40, seed=1)

    stranger = compile_toy(method, source, spread(40, 40, seed=2), settings=settings)
    itself = compile_toy(method, source, source, settings=settings)

    assert getattr(stranger, "reason", "") == "subspaces-differ"
    assert isinstance(itself, Term)


def test_procrustes_leaves_alone_what_the_probe_never_moved_or_drops_it() -> None:
    quiet = torch.diag(torch.tensor([1.0] * 5 + [0.0] * 3))
    inputs, pulls = random(40, 8) @ quiet, random(40, 8, seed=1) @ quiet
    weight, update = random(8, 8, seed=2), random(8, 8, seed=3)

    statistics = sums((inputs, inputs), (pulls, pulls))

    kept = compile_toy("procrustes", weight, weight, statistics=statistics)
    dropped = compile_toy("procrustes", weight, weight, statistics=statistics, settings={"silence": 0.0})

    assert torch.allclose(carry(kept, update, to=weight), update, atol=1e-5)
    assert torch.allclose(carry(dropped, update, to=weight), quiet @ update @ quiet, atol=1e-5)


@pytest.mark.parametrize("method", ["copy-scaled", "cross-lora", "lora-x", "procrustes", "prolora"])
def test_kernels_of_different_size_are_refused(method: str) -> None:
    here, there = random(6, 5, 3, 3), random(6, 5, 1, 1)
    rows = random(40, 5), random(40, 6)
    statistics = sums((rows[0], rows[0]), (rows[1], rows[1]))

    found = compile_toy(method, here, there, statistics=statistics)

    assert getattr(found, "reason", "") == "shape-differs"
