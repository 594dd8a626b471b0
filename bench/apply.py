"""Seconds per adapter of read + convert + write, against three others, in one run.

    OMP_NUM_THREADS=1 python bench/apply.py [--adapters 4] [--rank 32] [--repeats 3]

The adapters are kohya files of half precision with the true names of SD 1.5, on its 264 text and attention modules.
Plans: `copy` (nothing to compute), `subspace` (projectors of rank 320 on both sides, as lora-x compiles them) and
`dense` (full maps, as calibrated compiles them). Beside what lorax does, one adapter at a time and all at once:

  (a) dense   the way of papers and public code: form the update, multiply by explicit projectors, take an SVD back.
              Measured at square sites of three widths, and scaled to all sites by counted operations.
  (b) gemm    nothing but the products with the plan's operators, of the same shapes, all adapters at once.
  (c) file    reading, hashing, hashing and writing the same bytes.

Every figure is the least of the repeats; CPU seconds stand beside wall seconds, because machines are shared.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lorax.adapter import Adapter, BaseVerdict, LowRank, Site, SiteShape
from lorax.base_model import BaseModel
from lorax.base_models import known_bases
from lorax.convert import Conversion, convert_adapters
from lorax.examine import AdapterFiles
from lorax.method import Term
from lorax.operators import Dense, Identity, Operator, Projector, projector
from lorax.plan import Plan, PlanHead, PlannedSite
from lorax.read import read_adapter
from lorax.write import write_adapter

SUBSPACE = 320
MEASURED_WIDTHS = (320, 640, 1280)


@dataclass(frozen=True)
class Cost:
    """The least wall and CPU seconds of some runs."""

    wall: float
    cpu: float

    def per(self, count: int) -> Cost:
        """Returns the cost of one of `count`."""
        return Cost(self.wall / count, self.cpu / count)

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.wall + other.wall, self.cpu + other.cpu)


def cost(work: Callable[[], object], repeats: int) -> Cost:
    """Measures some work."""
    walls, cpus = [], []
    for _ in range(repeats):
        began, spent = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - began)
        cpus.append(time.process_time() - spent)
    return Cost(min(walls), min(cpus))


def true_sites(base: BaseModel) -> dict[Site, SiteShape]:
    """Returns what kohya's scripts train by default: text encoder, attention, projections and feed-forward."""
    return {
        site: shape
        for site, shape in sorted(base.sites.items())
        if site.component == "text_encoder" or "attentions" in site.path
    }


def make_files(folder: Path, base: BaseModel, *, count: int, rank: int) -> list[AdapterFiles]:
    """Writes random adapters and returns where they are."""
    verdict = BaseVerdict(base.name, base.family, base.version)
    files = []
    for index in range(count):
        updates = {
            site: LowRank(
                torch.randn(shape.out_features, rank) * 0.02,
                torch.randn(rank, shape.columns) * 0.02,
                0.5,
                shape.kernel,
            )
            for site, shape in true_sites(base).items()
        }
        adapter = Adapter(updates, "kohya", ("lora",), torch.float16, {}, (), verdict, "")
        (path,) = write_adapter(adapter, folder, dialect="kohya", base=base, stem=f"in-{index}", metadata={})
        files.append(AdapterFiles(path, None, path.name))
    return files


def subspace(width: int) -> Operator:
    """Returns a projector as lora-x stores one, for random directions."""
    return projector(torch.linalg.qr(torch.randn(width, min(SUBSPACE, width)))[0])


PLANS: dict[str, Callable[[int], Operator]] = {
    "copy": lambda _width: Identity(),
    "subspace": subspace,
    "dense": lambda width: Dense(torch.randn(width, width) / width**0.5),
}


def make_plan(base: BaseModel, operator: Callable[[int], Operator]) -> Plan:
    """Returns a plan with operators of one kind on both sides of every site; equal widths share them."""
    shapes = true_sites(base)
    shared = {width: operator(width) for shape in shapes.values() for width in (shape.out_features, shape.columns)}
    planned = tuple(
        PlannedSite(site, site, Term(shared[shape.out_features], shared[shape.columns]))
        for site, shape in shapes.items()
    )
    return Plan(PlanHead("0" * 64, "bench", {}, base, base), planned)


def operations_of(operator: Operator) -> float:
    """Counts what an operator does to one column; a projector uses its basis twice."""
    parts = sum(part.numel() for part in operator.tensors().values())
    return 2.0 * parts * (2 if isinstance(operator, Projector) else 1)


def bare_products(plan: Plan, adapters: Sequence[Adapter]) -> tuple[Callable[[], object], float]:
    """Returns the plan's products without anything around them, and how many operations they are."""
    work: list[tuple[Operator, torch.Tensor]] = []
    for planned in plan.sites:
        if planned.term is not None:
            own = [adapter.low_rank()[planned.target] for adapter in adapters]
            work.append((planned.term.output, torch.cat([update.up for update in own], dim=1)))
            work.append((planned.term.input, torch.cat([update.down for update in own]).T.contiguous()))
    operations = sum(columns.shape[1] * operations_of(operator) for operator, columns in work)
    return lambda: [operator.apply(columns) for operator, columns in work], operations


def dense_operations(shape: SiteShape, rank: int) -> float:
    """Counts the dense way at one site: update, two explicit projectors, SVD (Golub and Van Loan, table 8.6.1)."""
    rows, columns = shape.out_features, shape.columns
    long, short = max(rows, columns), min(rows, columns)
    products = 2 * rows * rank * columns + 2 * rows * columns * (rows + columns)
    return float(products + 6 * long * short**2 + 20 * short**3)


def dense_way(width: int, rank: int) -> Callable[[], object]:
    """Returns the dense way at one square site."""
    up, down = torch.randn(width, rank), torch.randn(rank, width)
    basis = torch.linalg.qr(torch.randn(width, min(SUBSPACE, width)))[0]
    left = right = basis @ basis.T

    def convert() -> object:
        u, s, v = torch.linalg.svd(left @ (up @ down) @ right, full_matrices=False)
        return u[:, :rank] * s[:rank], v[:rank]

    return convert


def dense_cost(base: BaseModel, rank: int, repeats: int) -> Cost:
    """Estimates the dense way at all sites from square sites of some widths."""
    found = Cost(0.0, 0.0)
    speeds = {width: cost(dense_way(width, rank), repeats) for width in MEASURED_WIDTHS}
    for shape in true_sites(base).values():
        short = min(shape.out_features, shape.columns)
        width = min(MEASURED_WIDTHS, key=lambda each, short=short: abs(each - short))
        share = dense_operations(shape, rank) / dense_operations(SiteShape(width, width), rank)
        found += Cost(speeds[width].wall * share, speeds[width].cpu * share)
    return found


def copy_files(files: Sequence[AdapterFiles], folder: Path) -> None:
    """Reads, hashes, hashes and writes the same bytes, durably."""
    for file in files:
        content = file.weights.read_bytes()
        for _ in range(2):
            hashlib.sha256(content).digest()
        with (folder / f"copy-{file.weights.name}").open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())


def write_all(results: Sequence[object], folder: Path, base: BaseModel) -> None:
    """Writes what came of a conversion."""
    for index, result in enumerate(results):
        if isinstance(result, Conversion):
            write_adapter(result.adapter, folder, dialect="kohya", base=base, stem=f"out-{index}", metadata={})


def measure(base: BaseModel, folder: Path, *, count: int, rank: int, repeats: int) -> Table:
    """Returns the table."""
    files = make_files(folder, base, count=count, rank=rank)
    adapters = [read_adapter(file, candidates=[base]) for file in files]
    read = cost(lambda: [read_adapter(file, candidates=[base]) for file in files], repeats).per(count)
    copied = cost(lambda: copy_files(files, folder), repeats).per(count)
    slow = dense_cost(base, rank, repeats)
    size = files[0].weights.stat().st_size
    table = Table(
        title=f"{count} adapters of rank {rank}, {size / 1e6:.1f} MB, {len(true_sites(base))} sites, "
        f"{torch.get_num_threads()} threads; wall (CPU) seconds per adapter"
    )
    heads = ("plan", "GFLOP", "read", "convert 1", "convert all", "write", "total", "(a) dense", "(b) gemm", "(c) file")
    for head in (*heads, "(a) / total", "total / max(b, c)", "total / (b + c)"):
        table.add_column(head, justify="right")
    for name, operator in PLANS.items():
        plan = make_plan(base, operator)
        products, operations = bare_products(plan, adapters)
        bare = cost(products, repeats).per(count)
        single = cost(partial(convert_adapters, plan, adapters[:1]), repeats)
        together = cost(partial(convert_adapters, plan, adapters), repeats).per(count)
        results = convert_adapters(plan, adapters)
        write = cost(partial(write_all, results, folder, base), repeats).per(count)
        total = read + together + write
        costs = (read, single, together, write, total, slow, bare, copied)
        ratios = (slow.cpu / total.cpu, total.cpu / max(bare.cpu, copied.cpu), total.cpu / (bare.cpu + copied.cpu))
        table.add_row(
            name,
            f"{operations / count / 1e9:.1f}",
            *(f"{each.wall:.2f} ({each.cpu:.2f})" for each in costs),
            *(f"{ratio:.1f}" for ratio in ratios),
        )
    table.caption = "ratios of CPU seconds"
    return table


def main() -> None:
    """Measures and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("adapters", 4), ("rank", 32), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    chosen = parser.parse_args()
    torch.manual_seed(0)
    base = next(each for each in known_bases() if each.name == "sd1.5")
    with tempfile.TemporaryDirectory() as folder:
        table = measure(base, Path(folder), count=chosen.adapters, rank=chosen.rank, repeats=chosen.repeats)
    Console(width=200).print(table)


if __name__ == "__main__":
    main()
