"""What compiling costs: leading subspaces against torch.linalg.svd, and peak memory against the depth of the model.

    OMP_NUM_THREADS=1 python bench/compile.py [--bases sd1.5 sdxl llama-2-7b] [--json FILE]
    OMP_NUM_THREADS=1 python bench/compile.py --pair SOURCE TARGET [--method prolora]

Every distinct shape of the bases is decomposed once, and counted as often as the base has it. Weights are random, their
rows (columns where they are taller than wide) scaled by 1/k^0.35: 99 % and 50 % of the squared norm then lie in 72 to
73 % and 9 to 11 % of the directions, as in the trained weights of examples/text/bases (medians 72 to 78 % and 6 to
9 %); --power 0 is white noise, which weights of examples/digits/bases resemble (77 % and 17 to 19 %). Two settings are
those of the methods' defaults: 99 % of the squared norm, 320 directions at most (lora-x, prolora), and 320 directions
(cross-lora).

"SVD" is torch.linalg.svd of the weight as it lies; "turned" the same of its transpose where it is wider than tall,
which LAPACK does up to six times faster. Weights whose SVD is above --limit operations
(rows * columns * the shorter of them) are decomposed by it at half their size and the seconds multiplied by 8.

"excess" is the squared norm outside the subspace beyond the least possible, over that least: the worse of both sides;
the least comes from the eigenvalues of a float64 Gram matrix (float32 where the shorter side is above 1536).

The second form compiles a plan for two base folders and tells the peak memory of the process.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.compile_memory import compile_folders, measure_depths
from bench.kept import keep
from lorax.base_models import known_bases
from lorax.linear_algebra import leading_bases

Shape = tuple[int, int]
Result = TypeVar("Result")
RANK = 320
SETTINGS = {"99 %, at most 320": 0.99, "rank 320": 1.0}


@dataclass(frozen=True)
class Measured:
    """What one shape takes, in processor seconds: lorax by setting, SVD as it lies and turned; excess of both."""

    rank: int
    lorax: tuple[float, ...]
    svd: float
    turned: float
    excess: float
    svd_excess: float | None


@dataclass(frozen=True)
class Printed:
    """A table for people and for docs/benchmarks.md."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    def shown(self) -> Table:
        """Returns it for the terminal."""
        table = Table(title=self.title, caption=self.caption)
        for column in self.columns:
            table.add_column(column, justify="right")
        for row in self.rows:
            table.add_row(*row)
        return table


def falling_spectrum(shape: Shape, power: float) -> torch.Tensor:
    """Returns a random weight whose shorter side is scaled by 1/k^power."""
    scale = torch.arange(1, min(shape) + 1).pow(-power)
    weight = torch.randn(*shape)
    return scale[:, None] * weight if shape[0] <= shape[1] else weight * scale


def timed(work: Callable[[], Result]) -> tuple[float, Result]:
    """Returns the processor seconds of one run, the lesser of two where it takes little, and what it gave."""
    found: list[float] = []
    while True:
        began = time.process_time()
        result = work()
        found.append(time.process_time() - began)
        if len(found) == 2 or sum(found) > 0.5:
            return min(found), result


def decomposed(weight: torch.Tensor) -> tuple[float, float, torch.Tensor, torch.Tensor]:
    """Returns the seconds of an SVD as the weight lies, those of the faster of that and its transpose's, and bases."""
    plain, (left, _, right) = timed(lambda: torch.linalg.svd(weight, full_matrices=False))
    turned = plain
    if weight.shape[0] < weight.shape[1]:
        turned = min(plain, timed(lambda: torch.linalg.svd(weight.T, full_matrices=False))[0])
    return plain, turned, left, right.T


def least_outside(weight: torch.Tensor, rank: int) -> float:
    """Returns the least squared norm that a subspace of a rank leaves out."""
    wide = weight if weight.shape[0] <= weight.shape[1] else weight.T
    exact = wide.double() if wide.shape[0] <= 1536 else wide
    squares = torch.linalg.eigvalsh(exact @ exact.T).double()
    return float(squares[: squares.numel() - rank].clamp_min(0).sum())


def excess(weight: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> float:
    """Returns how much more than the least two bases leave out, over the least; 0 where nothing has to be left out."""
    total = float(weight.double().square().sum())
    held = [(left.T @ weight).double().square().sum(), (weight @ right).double().square().sum()]
    least = least_outside(weight, left.shape[1])
    return (total - float(min(held)) - least) / least if least > 1e-6 * total else 0.0


def measure(shape: Shape, *, power: float, limit: float) -> Measured:
    """Measures one shape."""
    torch.manual_seed(0)
    weight = falling_spectrum(shape, power)
    seconds, found = timed(lambda: leading_bases(weight, energy=0.99, most=RANK))
    rank = found.rank
    ours = [seconds]
    # Both settings are the same work where they keep the same directions, and not all that there are.
    same = rank == RANK < min(shape)
    ours.append(seconds if same else timed(lambda: leading_bases(weight, energy=1.0, most=RANK))[0])
    lost = excess(weight, found.left, found.right)
    if shape[0] * shape[1] * min(shape) > limit:
        svd, turned, *_ = decomposed(falling_spectrum((shape[0] // 2, shape[1] // 2), power))
        return Measured(rank, tuple(ours), 8 * svd, 8 * turned, lost, None)
    svd, turned, left, right = decomposed(weight)
    return Measured(rank, tuple(ours), svd, turned, lost, excess(weight, left[:, :rank], right[:, :rank]))


def counts_of(names: Sequence[str]) -> dict[str, Counter[Shape]]:
    """Returns how often each shape occurs among the sites of each base; convolutions by their taps side by side."""
    bases = {base.name: base for base in known_bases()}
    return {
        name: Counter((shape.out_features, shape.columns) for shape in bases[name].sites.values()) for name in names
    }


def shapes_table(found: dict[Shape, Measured], counts: dict[str, Counter[Shape]]) -> Printed:
    """Returns what each shape takes, the costliest first."""
    order = sorted(found, key=lambda shape: -found[shape].svd)
    rows = [
        [
            f"{shape[0]}x{shape[1]}",
            *(str(counts[name][shape] or "") for name in counts),
            str(one.rank),
            *(f"{seconds:.3f}" for seconds in one.lorax),
            f"{one.svd:.2f}" + ("*" if one.svd_excess is None else ""),
            f"{one.turned:.2f}" + ("*" if one.svd_excess is None else ""),
            f"{one.svd / one.lorax[0]:.1f}",
            f"{one.excess:.0e}",
            "" if one.svd_excess is None else f"{one.svd_excess:.0e}",
        ]
        for shape in order
        for one in [found[shape]]
    ]
    head = ["shape", *counts, "rank", *SETTINGS, "SVD", "turned", "faster", "excess", "SVD's"]
    caption = "Processor seconds per weight; * from half the size. Rank, faster and excess: of the first setting."
    return Printed("One weight", head, rows, caption)


def bases_table(found: dict[Shape, Measured], counts: dict[str, Counter[Shape]]) -> Printed:
    """Returns what all sites of each base take together."""
    rows = []
    for name, shapes in counts.items():
        svd, turned = (sum(times * getattr(found[shape], way) for shape, times in shapes.items()) for way in WAYS)
        for index, setting in enumerate(SETTINGS):
            ours = sum(times * found[shape].lorax[index] for shape, times in shapes.items())
            worst = max(found[shape].excess for shape in shapes)
            rows.append([
                name, str(shapes.total()), setting, f"{ours:.0f}", f"{svd:.0f}", f"{turned:.0f}",
                f"{svd / ours:.1f}", f"{turned / ours:.1f}", f"{worst:.0e}",
            ])  # fmt: skip
    head = ["base", "sites", "setting", "lorax", "SVD", "turned", "faster", "than turned", "largest excess"]
    return Printed("All sites of one base", head, rows, "Processor seconds: of each shape, times its sites.")


WAYS = ("svd", "turned")


def memory_table(depths: list[int], method: str) -> Printed:
    """Returns the peak memory of compiling models of growing depth."""
    head = ["layers", "checkpoint", "plan", "largest weight", "opened", "peak"]
    rows = [
        [str(one["layers"]), *(f"{one[name] / 2**20:.0f}" for name in head[1:])]
        for one in measure_depths(depths, method=method)
    ]
    caption = "MiB. opened: peak of the process before compiling, most of it PyTorch itself; peak: at the end."
    return Printed(f"Peak memory of compiling {method} to disk, a Llama of width 768", head, rows, caption)


def folders_line(folders: list[Path], method: str) -> str:
    """Compiles a plan for two base folders and tells in one line what it took."""
    with tempfile.TemporaryDirectory() as out:
        figures = compile_folders(*folders, method=method, out=Path(out))
    return ", ".join(f"{name} {value / 2**20:.0f} MiB" for name, value in figures.items())


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bases", nargs="*", default=["sd1.5", "sdxl", "llama-2-7b"])
    parser.add_argument("--power", type=float, default=0.35)
    parser.add_argument("--limit", type=float, default=2.5e10)
    parser.add_argument("--depths", type=int, nargs="*", default=[2, 6, 12])
    parser.add_argument("--pair", type=Path, nargs=2, metavar=("SOURCE", "TARGET"))
    parser.add_argument("--method", default="prolora")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def main() -> None:
    """Measures, prints, and writes what docs/benchmarks.md is made of."""
    chosen, console = arguments(), Console(width=140)
    if chosen.pair:
        console.print(folders_line(chosen.pair, chosen.method))
        return
    counts, found = counts_of(chosen.bases), {}
    for shape in sorted({shape for each in counts.values() for shape in each}, key=min):
        console.print(f"{shape[0]}x{shape[1]}", end=" ", style="dim")
        found[shape] = measure(shape, power=chosen.power, limit=chosen.limit)
    console.print()
    tables = [bases_table(found, counts), shapes_table(found, counts)] if counts else []
    if chosen.depths:
        tables.append(memory_table(chosen.depths, chosen.method))
    for table in tables:
        console.print(table.shown())
    if chosen.json:
        facts = {"PyTorch": torch.__version__, "threads": str(torch.get_num_threads())}
        # The last paragraph is about options of the command, not about the tables.
        about = (__doc__ or "").rpartition("\n\n")[0]
        keep(chosen.json, about, title="Compile", made_with=facts, tables=[asdict(table) for table in tables])


if __name__ == "__main__":
    main()
