"""What compiling costs: leading subspaces against a full SVD, and peak memory against the size of the checkpoints.

    OMP_NUM_THREADS=1 python bench/compile.py [--repeats 2]
    OMP_NUM_THREADS=1 python bench/compile.py --pair SOURCE TARGET [--method copy]

The first form takes the subspaces that lora-x compiles (99 % of the squared norm, rank 320 at most) at weights of the
shapes that SD 1.5 has and of a spectrum that falls as 1/k^0.5, and compares them with torch.linalg.svd cut at the same
rank. The error is the share of the squared norm outside the subspace, over the least possible: 1 is optimal. The
second form compiles a plan to disk for two base folders and tells the peak memory of the process.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lorax.checkpoint import open_checkpoint
from lorax.compile import compilation, compile_to
from lorax.linear_algebra import leading_subspaces

ENERGY, MOST = 0.99, 320
SHAPES = {"320x320": 4, "640x640": 4, "1280x1280": 4, "1280x768": 2, "5120x640": 2, "10240x1280": 1, "640x5760": 2}
"""Shapes of SD 1.5 (a convolution by its taps side by side), and how many of each to weigh in the sum."""


def falling_spectrum(rows: int, columns: int) -> torch.Tensor:
    """Returns a weight whose singular values fall as 1/k^0.5."""
    weight, short = torch.randn(rows, columns), min(rows, columns)
    scale = torch.arange(1, short + 1).pow(-0.5)
    return scale[:, None] * weight if rows <= columns else weight * scale


def cpu_seconds(work: Callable[[], object], repeats: int) -> float:
    """Returns the least CPU seconds of some runs."""
    found = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return min(found)


def outside(weight: torch.Tensor, basis: torch.Tensor) -> float:
    """Returns the squared norm of a weight outside the columns of a basis of its output side."""
    return float(weight.double().square().sum() - (basis.T @ weight).double().square().sum())


def compare(repeats: int) -> Table:
    """Returns the table of both ways."""
    table = Table(title=f"CPU seconds per weight, {torch.get_num_threads()} threads")
    for head in ("shape", "rank", "lorax", "full SVD", "faster", "error / least"):
        table.add_column(head, justify="right")
    sums = [0.0, 0.0]
    for name, count in SHAPES.items():
        weight = falling_spectrum(*map(int, name.split("x")))
        found = leading_subspaces(weight, energy=ENERGY, most=MOST)
        best = torch.linalg.svd(weight, full_matrices=False)[0][:, : found.rank]
        ours = cpu_seconds(lambda w=weight: leading_subspaces(w, energy=ENERGY, most=MOST), repeats)
        full = cpu_seconds(lambda w=weight: torch.linalg.svd(w, full_matrices=False), repeats)
        sums = [sums[0] + count * ours, sums[1] + count * full]
        least = outside(weight, best)
        error = outside(weight, found.left) / least if least > 1e-9 * float(weight.square().sum()) else 1.0
        table.add_row(name, str(found.rank), f"{ours:.2f}", f"{full:.2f}", f"{full / ours:.1f}", f"{error:.4f}")
    table.add_row("weighed sum", "", f"{sums[0]:.2f}", f"{sums[1]:.2f}", f"{sums[1] / sums[0]:.1f}", "")
    return table


def peak_bytes() -> int:
    """Returns the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory(folders: list[Path], method: str) -> str:
    """Compiles a plan for two base folders and tells in one line what it took."""
    source, target = (open_checkpoint(folder, name=folder.resolve().name) for folder in folders)
    size = sum(path.stat().st_size for path in folders[1].rglob("*.safetensors"))
    opened = peak_bytes()
    largest = 4 * max(shape.out_features * shape.columns for shape in target.base.sites.values())
    with tempfile.TemporaryDirectory() as out:
        path = compile_to(Path(out), compilation(source, target, method=method, settings={}))
        plan = path.stat().st_size
    figures = {"checkpoint": size, "plan": plan, "largest weight": largest, "opened": opened, "peak": peak_bytes()}
    return ", ".join(f"{name} {value / 2**20:.0f} MiB" for name, value in figures.items())


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--pair", type=Path, nargs=2, metavar=("SOURCE", "TARGET"))
    parser.add_argument("--method", default="copy")
    chosen = parser.parse_args()
    torch.manual_seed(0)
    Console(width=120).print(memory(chosen.pair, chosen.method) if chosen.pair else compare(chosen.repeats))


if __name__ == "__main__":
    main()
