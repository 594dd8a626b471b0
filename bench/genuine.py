"""What methods that need weights make of adapters that nobody here made, between bases of true names and shapes.

    OMP_NUM_THREADS=1 python bench/genuine.py [--target bk-sdm-small] [--methods copy,lora-x] [--json FILE]

The bases are random (see bench/true_shapes.py): names, shapes, sizes and times are those of the true ones, fidelity
cannot be asked. Each plan is compiled by `lorax plan` in a process of its own (peak memory is measured by
bench/compile.py); then the four genuine adapters of tests/genuine and the example are read, moved and written, and
diffusers loads the result into the U-Net of the target's configuration, without weights.

Methods that look at activations (calibrated, procrustes, and auto, which tries them) run both bases: see
bench/activations.py.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.kept import keep  # noqa: E402 - after the path
from bench.true_shapes import FILES, make_base  # noqa: E402
from lorax.convert import convert_adapters, norm_shares  # noqa: E402
from lorax.errors import Unsupported  # noqa: E402
from lorax.lowering import lower_adapter  # noqa: E402
from lorax.methods import METHODS  # noqa: E402
from lorax.plan import Plan, load_plan  # noqa: E402
from lorax.read import AdapterFiles, read_adapter  # noqa: E402
from lorax.write import write_adapter  # noqa: E402
from tasks.bases import known_base  # noqa: E402

SOURCE = "sd1.5"
GENUINE = {
    "disney, cloneofsimo": ROOT / "tests" / "genuine" / "disney_cloneofsimo.safetensors",
    "attention processors": ROOT / "tests" / "genuine" / "attention_processor_2023.safetensors",
    "falcon, LoKr": ROOT / "tests" / "genuine" / "smart_falcon_lokr.safetensors",
    "pokemon, diffusers": ROOT / "examples" / "digits" / "catalogue" / "pokemon_sd15.safetensors",
}
DEFAULT = [name for name, one in METHODS.items() if one.needs in {"shapes", "weights"} and not one.is_control]


@dataclass(frozen=True)
class Compiled:
    """A plan, and what the process that compiled it took."""

    path: Path
    wall: float
    cpu: float


def compile_plan(folders: tuple[Path, Path], method: str, out: Path) -> Compiled:
    """Compiles a plan by the command, in a process of its own. Raises SystemExit where that fails."""
    path = out / f"{method}.safetensors"
    command = ["plan", *map(str, folders), "--method", method, "-o", str(path), "--json"]
    began = time.perf_counter()
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "flows.command_line", *command],
        {**os.environ, "PYTHONPATH": str(ROOT)},
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, used = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"lorax {' '.join(command)} ended with status {os.waitstatus_to_exitcode(status)}")
    return Compiled(path, time.perf_counter() - began, used.ru_utime + used.ru_stime)


def move(plan: Plan, file: Path, out: Path, unet: dict[str, Any]) -> Iterator[str]:
    """Moves one adapter and yields the cells of its row: sites, norm kept and lost, seconds, and whether it loads."""
    began = time.perf_counter()
    adapter = read_adapter(AdapterFiles(file), candidates=[plan.source_base])
    (found,) = convert_adapters(plan, [lower_adapter(adapter, None).adapter])
    if isinstance(found, Unsupported):
        yield from (found.reason, "", "", "", "")
        return
    (path,) = write_adapter(found.adapter, out, dialect="diffusers", base=plan.target_base, stem="x", metadata={})
    seconds = time.perf_counter() - began
    shares = norm_shares(found)
    yield f"{found.sites_mapped} of {len(found.sites)}"
    yield f"{shares.kept:.1%}"
    yield f"{shares.dropped:.1%}"
    yield f"{seconds:.2f}"
    yield opens(path, unet)


def opens(path: Path, config: dict[str, Any]) -> str:
    """Tells whether diffusers finds a module for each tensor of the file's U-Net, and a tensor for each module."""
    import peft
    import torch
    from diffusers import UNet2DConditionModel
    from safetensors.torch import load_file

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
    tensors = {name: tensor for name, tensor in load_file(path).items() if name.startswith("unet.")}
    told: list[Any] = []
    real = peft.set_peft_model_state_dict
    peft.set_peft_model_state_dict = lambda *given, **named: told.append(real(*given, **named)) or told[-1]
    try:
        unet.load_lora_adapter(tensors, prefix="unet", low_cpu_mem_usage=True)
    finally:
        peft.set_peft_model_state_dict = real
    wrong = [*told[0].unexpected_keys, *(key for key in told[0].missing_keys if "lora" in key)]
    return f"{len(wrong)} keys wrong" if wrong else "yes"


def measure(folder: Path, target: str, methods: list[str]) -> tuple[Table, Table]:
    """Returns the table of plans and the table of adapters."""
    source, distilled = known_base(SOURCE), known_base(target)
    folders = (make_base(folder / SOURCE, source), make_base(folder / target, distilled, parent=source))
    unet = json.loads((folders[1] / "unet" / "config.json").read_text())
    size = sum((folders[1] / component / file).stat().st_size for component, file in FILES.items())
    plans = Table(title=f"{SOURCE} -> {target}, a checkpoint of {size / 2**20:.0f} MiB")
    for head in ("method", "sites planned", "wall s", "CPU s", "plan MiB"):
        plans.add_column(head, justify="left" if head == "method" else "right")
    moved = Table()
    for head in ("method", "adapter", "sites with a home", "norm² kept", "norm² without a home", "s", "loads"):
        moved.add_column(head, justify="left" if head in {"method", "adapter"} else "right")
    for method in methods:
        made = compile_plan(folders, method, folder)
        plan = load_plan(made.path)
        planned = sum(site.term is not None for site in plan.sites)
        figures = (f"{made.wall:.0f}", f"{made.cpu:.0f}")
        plans.add_row(method, f"{planned} of {len(plan.sites)}", *figures, f"{made.path.stat().st_size / 2**20:.0f}")
        for number, (name, file) in enumerate(GENUINE.items()):
            moved.add_row(method, name, *move(plan, file, folder / f"{method}-{number}", unet))
    return plans, moved


def plain(title: str, table: Table) -> dict[str, Any]:
    """Returns a table as docs/benchmarks.md takes it."""
    return {
        "title": title,
        "columns": [str(column.header) for column in table.columns],
        "rows": [list(row) for row in zip(*(column.cells for column in table.columns), strict=True)],
        "caption": str(table.title or ""),
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="bk-sdm-small")
    parser.add_argument("--methods", default=",".join(DEFAULT))
    parser.add_argument("--folder", type=Path, help="where some gigabytes go for a while; otherwise a temporary one")
    parser.add_argument("--json", type=Path, metavar="FILE")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        tables = measure(Path(folder), chosen.target, chosen.methods.split(","))
    for table in tables:
        Console(width=120).print(table)
    if chosen.json is not None:
        facts = {"PyTorch": version("torch"), "diffusers": version("diffusers")}
        named = [plain(title, table) for title, table in zip(("Plans", "Adapters"), tables, strict=True)]
        keep(chosen.json, __doc__, title="Genuine adapters", made_with=facts, tables=named)


if __name__ == "__main__":
    main()
