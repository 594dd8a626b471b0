"""Speed of applying a plan, against the floor of the machine and against the naive way, in one run.

    python bench/apply.py [--width 1280] [--sites 8] [--adapters 32] [--rank 16]

Three ways to convert `adapters` LoRAs of one rank at `sites` square weights, for a projection of rank 320 (lora-x) and
for a dense map (calibrated):

  batched   what lorax does: all adapters stacked along the rank axis, one product per operator and site
  single    the same factored products, one adapter at a time
  naive     form the dense update, map it from both sides, take an SVD and cut it back to the rank (one site, scaled up)

The floor is the time that the same number of multiplications takes in one large square matrix product.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lorax.adapter import Adapter, BaseVerdict, LowRank, Site, SiteShape
from lorax.base_model import BaseModel
from lorax.convert import convert_adapters
from lorax.method import Term
from lorax.operators import Dense, Factored, Operator
from lorax.plan import Plan, PlannedSite


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Returns the fastest of some runs."""
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def flops_per_second(size: int = 1536) -> float:
    """Returns what one large square product reaches on this machine."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / seconds(lambda: left @ right, 5)


def make_plan(operator: Callable[[], Operator], sites: int) -> Plan:
    """Returns a plan with the same kind of operator on both sides of every site."""
    planned = tuple(
        PlannedSite(Site("unet", f"site.{index}"), Site("unet", f"site.{index}"), Term(operator(), operator()))
        for index in range(sites)
    )
    return Plan("key", "bench", {}, "source", "target", "s", "t", planned)


def make_adapters(count: int, *, width: int, rank: int, sites: int) -> list[Adapter]:
    """Returns random adapters with one update per site."""
    verdict = BaseVerdict("source", "bench", "1")
    return [
        Adapter(
            {
                Site("unet", f"site.{index}"): LowRank(torch.randn(width, rank), torch.randn(rank, width), 1.0)
                for index in range(sites)
            },
            "kohya", ("lora",), torch.float16, {}, (), verdict, str(number),
        )
        for number in range(count)
    ]  # fmt: skip


def naive(update: LowRank, left: torch.Tensor, right: torch.Tensor) -> LowRank:
    """Converts one update as transfer code usually does."""
    dense = left @ (update.scale * update.up @ update.down) @ right
    u, s, v = torch.linalg.svd(dense, full_matrices=False)
    return LowRank(u[:, : update.rank] * s[: update.rank], v[: update.rank], 1.0)


def main() -> None:
    """Measures and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("width", 1280), ("sites", 8), ("adapters", 32), ("rank", 16)):
        parser.add_argument(f"--{name}", type=int, default=default)
    chosen = parser.parse_args()
    width, sites, count, rank = chosen.width, chosen.sites, chosen.adapters, chosen.rank
    adapters = make_adapters(count, width=width, rank=rank, sites=sites)
    target = BaseModel(
        "target", "bench", "1", {Site("unet", f"site.{i}"): SiteShape(width, width) for i in range(sites)}
    )
    basis, speed = torch.linalg.qr(torch.randn(width, min(320, width)))[0], flops_per_second()
    printed = Table(
        title=f"{count} adapters of rank {rank}, {sites} sites of {width}x{width}, {torch.get_num_threads()} threads"
    )
    for column in (
        "operator",
        "batched",
        "single",
        "naive",
        "floor",
        "batched / floor",
        "single / batched",
        "naive / batched",
    ):
        printed.add_column(column, justify="right")
    kinds: dict[str, Callable[[], Operator]] = {
        "rank 320": lambda: Factored(basis, basis.T.contiguous()),
        "dense": lambda: Dense(torch.randn(width, width)),
    }
    for name, make in kinds.items():
        plan = make_plan(make, sites)
        per_column = 4 * width * basis.shape[1] if name == "rank 320" else 2 * width * width
        batched = seconds(lambda plan=plan: convert_adapters(plan, adapters, target=target))
        single = seconds(lambda plan=plan: [convert_adapters(plan, [each], target=target) for each in adapters], 1)
        first = next(iter(adapters[0].updates.values()))
        slow = sites * count * seconds(partial(naive, first, basis @ basis.T, basis @ basis.T), 1)
        floor = 2 * per_column * rank * count * sites / speed
        ratios = (batched / floor, single / batched, slow / batched)
        printed.add_row(
            name, *(f"{value:.2f} s" for value in (batched, single, slow, floor)), *(f"{r:.1f}" for r in ratios)
        )
    Console(width=140).print(printed)


if __name__ == "__main__":
    main()
