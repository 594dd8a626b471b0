"""Updates of any algorithm become factors; what they lose is told, and nothing is lost where nothing has to be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lorax.adapter import Adapter, BaseVerdict, LowRank, Site, SiteShape, Update
from lorax.algorithms.dora import DoRA
from lorax.algorithms.full import Full
from lorax.algorithms.ia3 import IA3
from lorax.algorithms.loha import LoHa
from lorax.algorithms.lokr import LoKr
from lorax.algorithms.lora_x import LoRAX
from lorax.algorithms.svdiff import SVDiff
from lorax.errors import Unsupported
from lorax.lowering import lower, lower_adapter

OUT, IN = 24, 20


def noise(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def low_rank(rank: int = 3) -> LowRank:
    return LowRank(noise(OUT, rank), noise(rank, IN, seed=1), 0.5)


def of_rank(rank: int, rows: int, columns: int) -> Tensor:
    return noise(rows, rank) @ noise(rank, columns, seed=1)


def adapter(updates: dict[Site, Update]) -> Adapter:
    return Adapter(
        updates=updates,
        dialect="kohya",
        algorithms=("dora", "lora"),
        dtype=torch.float16,
        metadata={"kept": "yes"},
        trigger_words=("word",),
        base=BaseVerdict("base", "family", "version"),
        weights_sha256="0" * 64,
    )


def test_lora_stays_as_it_is() -> None:
    update = low_rank()

    lowered = lower(update, None, rank=1)

    assert lowered.update is update
    assert lowered.lost == 0


def test_exact_factors_are_kept_up_to_the_rank_that_is_allowed() -> None:
    sides = (noise(OUT, 3), noise(3, IN, seed=1), noise(OUT, 3, seed=2), noise(3, IN, seed=3))
    update = LoHa(*sides, 0.5, SiteShape(OUT, IN))

    kept, cut = lower(update, None, rank=4), lower(update, None, rank=4, exact_rank=8)

    assert (kept.update.rank, kept.lost) == (9, 0.0)
    torch.testing.assert_close(kept.update.dense(), update.dense())
    assert cut.update.rank == 4
    assert cut.lost == pytest.approx(lost_of(update.dense(), 4))
    assert_best(cut.update.dense(), update.dense(), 4)


def test_lokr_of_whole_factors_is_cut_to_its_best_approximation() -> None:
    update = LoKr({"lokr_w1": noise(4, 5), "lokr_w2": noise(6, 4, seed=1)}, 2.0, SiteShape(OUT, IN))

    lowered = lower(update, None, rank=5, exact_rank=10)

    assert lowered.update.rank == 5
    assert_best(lowered.update.dense(), update.dense(), 5)


def assert_best(found: Tensor, meant: Tensor, rank: int) -> None:
    left, values, right = torch.linalg.svd(meant.flatten(1), full_matrices=False)
    torch.testing.assert_close(found.flatten(1), (left[:, :rank] * values[:rank]) @ right[:rank])


def lost_of(meant: Tensor, rank: int) -> float:
    squares = torch.linalg.svdvals(meant.flatten(1)).square()
    return float(squares[rank:].sum() / squares.sum())


@pytest.mark.parametrize(
    "update",
    [
        DoRA(low_rank(), noise(OUT, seed=4).abs(), per_output=True),
        DoRA(low_rank(), noise(IN, seed=4).abs(), per_output=False),
        IA3(noise(IN, seed=5), on_input=True, is_factor=False),
        SVDiff(noise(IN, seed=6), 1.0),
    ],
    ids=["dora per output", "dora per input", "ia3", "svdiff"],
)
def test_what_depends_on_the_base_is_formed_on_it_and_cut(update: Update) -> None:
    weight = noise(OUT, IN, seed=9)
    meant = update.dense(weight)

    lowered = lower(update, weight, rank=6)

    assert lowered.update.rank == 6
    assert 0 < lowered.lost < 1
    assert lowered.lost == pytest.approx(lost_of(meant, 6))
    assert_best(lowered.update.dense(), meant, 6)


def test_a_whole_change_needs_no_base_and_loses_nothing_where_the_rank_suffices() -> None:
    diff = of_rank(4, OUT, 27).reshape(OUT, 3, 3, 3)

    lowered = lower(Full(diff, (3, 3)), None, rank=4)

    assert lowered.lost < 1e-12
    assert lowered.update.kernel == (3, 3)
    torch.testing.assert_close(lowered.update.dense(), diff)


def test_a_rank_beyond_the_weight_keeps_everything() -> None:
    lowered = lower(Full(noise(OUT, IN)), None, rank=64)

    assert (lowered.update.rank, lowered.lost) == (IN, 0.0)
    torch.testing.assert_close(lowered.update.dense(), noise(OUT, IN))


def test_a_change_of_zero_loses_nothing() -> None:
    lowered = lower(Full(torch.zeros(OUT, IN)), None, rank=4)

    assert lowered.lost == 0
    assert not lowered.update.dense().any()


@pytest.mark.parametrize("kernel", [None, (2, 2)])
def test_lora_x_keeps_its_own_rank_on_its_base_and_every_digit(kernel: tuple[int, int] | None) -> None:
    weight = noise(OUT, IN, seed=9) if kernel is None else noise(OUT, IN // 4, *kernel, seed=9)
    update = LoRAX(noise(5), 2.0, kernel)

    lowered = lower(update, weight, rank=2)

    assert (lowered.update.rank, lowered.update.scale, lowered.lost) == (5, 2.0, 0.0)
    left, _, right = torch.linalg.svd(weight.flatten(1), full_matrices=False)
    told = (2 * (left[:, :5] * update.sigma) @ right[:5]).reshape(weight.shape)
    torch.testing.assert_close(lowered.update.dense(), told, rtol=1e-12, atol=1e-12)


def test_lora_x_of_more_rank_than_is_asked_for_is_cut_to_its_largest_changes() -> None:
    weight, update = noise(OUT, IN, seed=9), LoRAX(noise(8), 1.0)

    lowered = lower(update, weight, rank=3, exact_rank=7)

    assert lowered.update.rank == 3
    squares = update.sigma.square().sort(descending=True).values
    assert lowered.lost == pytest.approx(float(squares[3:].sum() / squares.sum()))
    assert_best(lowered.update.dense(), update.dense(weight), 3)


def test_by_itself_lora_x_keeps_all_that_its_paper_trains_and_lokr_less() -> None:
    weight = noise(330, 330, seed=9).float()
    whole = LoKr({"lokr_w1": noise(3, 3), "lokr_w2": noise(110, 110, seed=1)}, 1.0, SiteShape(330, 330))

    assert lower(LoRAX(noise(320).float(), 1.0), weight, rank=4).update.rank == 320
    assert lower(LoRAX(noise(321).float(), 1.0), weight, rank=4).update.rank == 4
    assert lower(whole, None, rank=4).update.rank == 4


def test_svdiff_of_few_shifts_is_of_as_many_ranks_and_loses_nothing() -> None:
    weight, delta = noise(OUT, IN, seed=9), torch.zeros(IN, dtype=torch.float64)
    # One shift takes more away than there is: the value stops at zero.
    delta[[2, 7, IN - 1]] = torch.tensor([0.4, -0.3, -1e3], dtype=torch.float64)
    update = SVDiff(delta, 0.5)

    lowered = lower(update, weight, rank=2)

    assert (lowered.update.rank, lowered.lost) == (3, 0.0)
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    shifts = (values + 0.5 * delta).clamp(min=0) - values
    torch.testing.assert_close(lowered.update.dense(), (left * shifts) @ right)


def test_svdiff_that_shifts_nothing_stays_a_change_of_nothing() -> None:
    lowered = lower(SVDiff(torch.zeros(IN, dtype=torch.float64), 1.0), noise(OUT, IN, seed=9), rank=2)

    assert (lowered.update.rank, lowered.lost) == (1, 0.0)
    assert not lowered.update.dense().any()


def test_factors_that_are_cut_share_their_size_and_are_no_halves() -> None:
    sides = (noise(OUT, 3), 1e-3 * noise(3, IN, seed=1), noise(OUT, 3, seed=2), noise(3, IN, seed=3))
    w1_a, w1_b, w2_a, w2_b = (side.half() for side in sides)
    update = LoHa(w1_a, w1_b, w2_a, w2_b, 0.5, SiteShape(OUT, IN))

    found = lower(update, None, rank=4, exact_rank=8).update

    assert found.up.dtype == found.down.dtype == torch.float32
    torch.testing.assert_close(found.up.norm(dim=0), found.down.norm(dim=1), rtol=1e-4, atol=1e-6)


def test_a_wide_change_is_cut_by_a_randomised_decomposition_as_well_as_by_a_whole_one() -> None:
    # A spectrum like those of real changes: a steep start, then a long tail.
    size, rank = 900, 16
    left, right = (torch.linalg.qr(noise(size, size, seed=seed).float()).Q for seed in (1, 2))
    values = torch.arange(1, size + 1, dtype=torch.float32) ** -1.0
    change = (left * values) @ right.mT

    lowered = lower(Full(change), None, rank=rank)

    best = float(values[rank:].square().sum() / values.square().sum())
    missing = float((lowered.update.dense() - change).square().sum() / change.square().sum())
    assert lowered.lost == pytest.approx(missing, rel=1e-3)
    assert missing == pytest.approx(best, rel=0.02)


def test_without_the_base_weight_it_is_refused_by_name_of_the_algorithm() -> None:
    with pytest.raises(Unsupported, match="that dora makes depends on the base weight") as raised:
        lower(DoRA(low_rank(), noise(OUT).abs(), per_output=True), None, rank=4)
    assert raised.value.reason == "needs-base"


def test_an_adapter_is_lowered_site_by_site_and_asks_only_for_the_weights_it_needs() -> None:
    plain, turned = Site("unet", "plain"), Site("unet", "turned")
    source = adapter({plain: low_rank(), turned: DoRA(low_rank(), noise(OUT).abs(), per_output=True)})
    asked: list[Site] = []

    def weight(site: Site) -> Tensor:
        asked.append(site)
        return noise(OUT, IN, seed=9)

    lowered = lower_adapter(source, weight, rank=4)

    assert asked == [turned]
    assert lowered.lost.keys() == {turned}
    assert lowered.adapter.low_rank()[plain] is source.updates[plain]
    assert lowered.adapter.ranks() == (3, 4)
    assert (lowered.adapter.metadata, lowered.adapter.dtype) == (source.metadata, source.dtype)


def test_an_adapter_without_its_base_is_refused_by_the_name_of_the_site() -> None:
    site = Site("unet", "turned")

    with pytest.raises(Unsupported, match="unet:turned"):
        lower_adapter(adapter({site: IA3(noise(IN), on_input=True, is_factor=False)}), None)


def test_the_lost_share_of_an_adapter_is_that_of_its_whole_norm() -> None:
    generator = torch.Generator().manual_seed(0)
    whole = torch.diag(torch.tensor([3.0, 2.0, 1.0, 1.0]))
    exact = LowRank(torch.randn(4, 1, generator=generator), torch.randn(1, 4, generator=generator), 1.0)
    sites = {Site("unet", "whole"): Full(whole), Site("unet", "exact"): exact}

    lowered = lower_adapter(adapter(sites), None, rank=2)

    assert lowered.lost == {Site("unet", "whole"): pytest.approx(2 / 15)}
    assert lowered.lost_share() == pytest.approx(2 / (15 + exact.norm() ** 2))
