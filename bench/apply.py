"""Seconds per adapter of converting files in a stream, against three others, in one run.

    OMP_NUM_THREADS=1 python bench/apply.py [--adapters 8] [--rank 32] [--repeats 5] [--json FILE]

The adapters are kohya files of half precision with the true names of SD 1.5, on its 264 text and attention modules;
lorax converts them by `convert_files`, as the main job does: files in, files out, hashed and on the disk. Plans:
`copy` (nothing to compute), `subspace` (projectors of rank 320 on both sides, as lora-x compiles them) and `dense`
(full maps, as calibrated compiles them). The others:

(a) the way of papers and public code: form the update, multiply by explicit projectors, take an SVD back. Measured at
square sites of three widths, and scaled to all sites by counted operations; reading and writing are left out.
(b) nothing but the products with the plan's operators, of the same shapes, four adapters at a time.
(c) reading, hashing and writing the same bytes, on the disk at the end: one sha256 of the weights that come in, one of
the weights that go out, which headers of kohya's hold, and one of the whole file that goes out.

Each figure is the least of the repeats, in which all take turns. Wall seconds: (a), (b) and (c) run in one thread;
lorax reads, computes and writes at the same time. CPU seconds are of all threads together, so that nothing can hide
behind something else; there the sum of (b) and (c) is the least that anything could take.
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

from bench.kept import keep
from lorax.adapter import Adapter, BaseVerdict, LowRank, Site, SiteShape
from lorax.base_model import BaseModel
from lorax.base_models import known_bases
from lorax.convert_files import convert_files
from lorax.examine import AdapterFiles
from lorax.method import Term
from lorax.operators import Dense, Identity, Operator, Projector, projector
from lorax.plan import Plan, PlanHead, PlannedSite
from lorax.read import read_adapter
from lorax.write import write_adapter

SUBSPACE = 320
HASHES = 3
TOGETHER = 4
"""Adapters whose products are formed at once, as many as lorax computes together."""
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


@dataclass(frozen=True)
class Row:
    """What one plan costs, beside the others."""

    plan: str
    gflop: float
    own: Cost
    slow: Cost
    gemm: Cost
    file: Cost


def least(costs: Sequence[Cost]) -> Cost:
    """Returns the least wall and the least CPU seconds."""
    return Cost(min(each.wall for each in costs), min(each.cpu for each in costs))


def cost(work: Callable[[], object], repeats: int) -> Cost:
    """Measures some work."""
    costs = []
    for _ in range(repeats):
        began, spent = time.perf_counter(), time.process_time()
        work()
        costs.append(Cost(time.perf_counter() - began, time.process_time() - spent))
    return least(costs)


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


def distance(one: int, other: int) -> int:
    """Returns how far apart two widths are."""
    return abs(one - other)


def dense_cost(base: BaseModel, rank: int, repeats: int) -> Cost:
    """Estimates the dense way at all sites from square sites of some widths."""
    found = Cost(0.0, 0.0)
    speeds = {width: cost(dense_way(width, rank), repeats) for width in MEASURED_WIDTHS}
    for shape in true_sites(base).values():
        short = min(shape.out_features, shape.columns)
        width = min(MEASURED_WIDTHS, key=partial(distance, short))
        share = dense_operations(shape, rank) / dense_operations(SiteShape(width, width), rank)
        found += Cost(speeds[width].wall * share, speeds[width].cpu * share)
    return found


def copy_files(files: Sequence[AdapterFiles], folder: Path) -> None:
    """Reads the same bytes, hashes them as often as lorax has to, and writes them, on the disk at the end."""
    for file in files:
        copy_file(file, folder)


def copy_file(file: AdapterFiles, folder: Path) -> None:
    """Does so with one of them."""
    content = file.weights.read_bytes()
    for _ in range(HASHES):
        hashlib.sha256(content).digest()
    draft = folder / f".{file.weights.name}"
    with draft.open("wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    draft.replace(folder / file.weights.name)


def convert(plan: Plan, files: Sequence[AdapterFiles], folder: Path) -> None:
    """Converts all files as users do. Raises what one of them could not be converted for."""
    for found in convert_files(plan, files, folder=lambda _source: folder):
        if found.problem is not None:
            raise found.problem


def measure(base: BaseModel, folder: Path, *, count: int, rank: int, repeats: int) -> list[Row]:
    """Measures all plans; the others take turns with lorax, for machines are shared."""
    files = make_files(folder / "in", base, count=count, rank=rank)
    few = [read_adapter(file, candidates=[base]) for file in files[:TOGETHER]]
    slow = dense_cost(base, rank, repeats)
    rows = []
    for name, operator in PLANS.items():
        plan = make_plan(base, operator)
        products, operations = bare_products(plan, few)
        own: list[Cost] = []
        gemm: list[Cost] = []
        file: list[Cost] = []
        for _ in range(repeats):
            own.append(cost(partial(convert, plan, files, folder / "out"), 1).per(count))
            gemm.append(cost(products, 1).per(len(few)))
            file.append(cost(partial(copy_files, files, folder / "out"), 1).per(count))
        rows.append(Row(name, operations / len(few) / 1e9, least(own), slow, least(gemm), least(file)))
    return rows


HEADS = (
    "plan",
    "GFLOP",
    "lorax",
    "(a) dense",
    "(b) products",
    "(c) bytes",
    "(a) / lorax",
    "lorax / max(b, c)",
    "lorax / (b + c)",
)


def cells(row: Row, figure: Callable[[Cost], float]) -> list[str]:
    """Returns a line of the table for wall or for CPU seconds."""
    own, slow, gemm, file = map(figure, (row.own, row.slow, row.gemm, row.file))
    seconds = (f"{each:.3f}" for each in (own, slow, gemm, file))
    ratios = (f"{slow / own:.0f}", f"{own / max(gemm, file):.2f}", f"{own / (gemm + file):.2f}")
    return [row.plan, f"{row.gflop:.1f}", *seconds, *ratios]


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("adapters", 8), ("rank", 32), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def main() -> None:
    """Measures, prints two tables, and writes what docs/benchmarks.md is made of."""
    chosen = arguments()
    torch.manual_seed(0)
    base = next(each for each in known_bases() if each.name == "sd1.5")
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(base, Path(folder), count=chosen.adapters, rank=chosen.rank, repeats=chosen.repeats)
    tables = [
        {
            "title": "Wall seconds per adapter",
            "columns": HEADS,
            "rows": [cells(row, lambda cost: cost.wall) for row in rows],
        },
        {
            "title": "CPU seconds per adapter",
            "columns": HEADS,
            "rows": [cells(row, lambda cost: cost.cpu) for row in rows],
        },
    ]
    for each in tables:
        table = Table(*HEADS, title=str(each["title"]))
        for line in each["rows"]:
            table.add_row(*line)
        Console(width=140).print(table)
    if chosen.json:
        facts = {
            "PyTorch": torch.__version__,
            "threads": str(torch.get_num_threads()),
            "cores": str(os.cpu_count()),
            "adapters": str(chosen.adapters),
            "rank": str(chosen.rank),
        }
        keep(chosen.json, __doc__, title="Apply", made_with=facts, tables=tables)


if __name__ == "__main__":
    main()
