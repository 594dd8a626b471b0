"""Make everything in this folder again: bases, catalogue, natives, bad files, sheets and index.json.

    python examples/digits/train.py [--stage STAGE] [--jobs N] [--out FOLDER]

What exists already is skipped, so a stopped run goes on where it was. CPU only, seeds fixed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))  # so that `examples.digits` is found when this file is run as a script

import torch  # noqa: E402

from examples.digits import broken, diffusion, styles  # noqa: E402
from examples.digits.adapters import train_adapter  # noqa: E402
from examples.digits.bases import NEEDS, train_base  # noqa: E402
from examples.digits.models import file_hash, open_base, unet_file  # noqa: E402
from examples.digits.recipes import CATALOGUE, SEEDS, SOURCE, TARGETS, Recipe, natives  # noqa: E402
from examples.digits.sheets import draw_adapters, draw_bases, draw_previews  # noqa: E402
from examples.digits.writers import WRITERS, appearing, write_native  # noqa: E402

Record = dict[str, Any]
STAGES = ("bases", "adapters", "natives", "broken", "sheets")


@dataclass(frozen=True)
class Job:
    """One thing to make: where it goes, what must exist before, and the call that makes it and returns its record."""

    stage: str
    path: str
    call: Callable[..., Record]
    arguments: tuple[Any, ...] = ()
    needs: tuple[str, ...] = field(default=())


def base_job(out: Path, name: str) -> Record:
    """Train one base."""
    return train_base(name, out / "bases")


def _losses(base_name: str, out: Path, recipe: Recipe, like: Recipe | None = None) -> tuple[Any, Record]:
    """Train an adapter; returns it with its held-out losses."""
    base = open_base(out / "bases" / base_name)
    started = time.perf_counter()
    trained = train_adapter(base, recipe, like)
    seconds = time.perf_counter() - started
    without = diffusion.held_out_loss(base, recipe.style)
    record = {
        "held_out_loss_without": round(without, 5),
        "held_out_loss_with": round(diffusion.held_out_loss(trained.base, recipe.style), 5),
        "seconds": round(seconds, 1),
    }
    return trained, record


def _described(recipe: Recipe, base: str, like: Recipe) -> Record:
    return {
        "name": recipe.name,
        "style": recipe.style,
        "base": base,
        "dialect": recipe.dialect,
        "rank": recipe.rank,
        "alpha": recipe.alpha,
        "seed": recipe.seed,
        "dtype": recipe.dtype,
        "has_text_encoder": recipe.text_encoder,
        "has_conv": like.conv,
        "trigger_words": [styles.STYLES[recipe.style].trigger],
    }


def adapter_job(out: Path, recipe: Recipe) -> Record:
    """Train one adapter of the catalogue and write it."""
    trained, losses = _losses(SOURCE, out, recipe)
    base_hash = file_hash(unet_file(out / "bases" / SOURCE))
    WRITERS[recipe.dialect](trained, out / "catalogue", base_hash)
    more = {"weights": f"catalogue/{recipe.weights}", "licence": recipe.licence, "described": recipe.described}
    return {**_described(recipe, SOURCE, recipe), **more, "derivatives": recipe.derivatives, **losses}


def native_job(out: Path, target: str, recipe: Recipe, like: Recipe) -> Record:
    """Train one adapter natively on a target base."""
    trained, losses = _losses(target, out, recipe, like)
    write_native(trained, out / "natives" / target / recipe.path)
    return {**_described(recipe, target, like), **losses}


def broken_job(out: Path, name: str) -> Record:
    """Make one bad file."""
    broken.make(name, out / "catalogue")
    return {"name": name, "what": broken.MAKERS[name][1]}


def sheet_job(out: Path, name: str) -> Record:
    """Draw one sheet, or the previews beside the catalogue's files."""
    {"bases.png": draw_bases, "adapters.png": draw_adapters, "previews": draw_previews}[name](out)
    return {}


def plan(out: Path) -> list[Job]:
    """Every job, the most wanted first."""
    first = [
        Job("bases", f"bases/{name}", base_job, (out, name), tuple(f"bases/{need}" for need in NEEDS[name]))
        for name in NEEDS
    ]
    source = f"bases/{SOURCE}"
    adapters = [Job("adapters", f"catalogue/{item.path}", adapter_job, (out, item), (source,)) for item in CATALOGUE]
    by_style = {item.style: item for item in reversed(CATALOGUE)}
    own = [
        Job(
            "natives",
            f"natives/{target}/{item.path}",
            native_job,
            (out, target, item, by_style[item.style]),
            (f"bases/{target}",),
        )
        for target in TARGETS
        for item in natives()
    ]
    own.sort(key=lambda job: job.arguments[2].seed > 0)  # what is only there for comparison last
    adapter_paths = tuple(job.path for job in adapters)
    bad = [Job("broken", f"catalogue/{name}", broken_job, (out, name), adapter_paths) for name in broken.MAKERS]
    drawn = [
        Job("sheets", "sheets/bases.png", sheet_job, (out, "bases.png"), tuple(job.path for job in first)),
        Job("sheets", "sheets/adapters.png", sheet_job, (out, "adapters.png"), adapter_paths),
        Job("sheets", "catalogue/bold.preview.png", sheet_job, (out, "previews"), adapter_paths),
    ]
    return [*first[:3], *adapters, *first[3:], *bad, *drawn, *own]


class Index:
    """index.json: one record per thing made, written after each job."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.file = out / "index.json"
        self.records: dict[str, Record] = self._read()

    def _read(self) -> dict[str, Record]:
        if not self.file.exists():
            return {}
        stored = json.loads(self.file.read_text())
        return {record["path"]: record for part in ("bases", "adapters", "natives", "bad") for record in stored[part]}

    def has(self, job: Job) -> bool:
        """Whether a job's work is there; a sheet needs no record."""
        return (self.out / job.path).exists() and (job.stage == "sheets" or job.path in self.records)

    def add(self, job: Job, record: Record) -> None:
        """Keep a job's record and write the file."""
        if job.stage != "sheets":
            self.records[job.path] = {"path": job.path, **record}
        self.write()

    def write(self) -> None:
        """Write the records in the order of the plan, natives also listed under the adapters that they match."""
        parts: dict[str, list[Record]] = {"bases": [], "adapters": [], "natives": [], "broken": []}
        for job in plan(self.out):
            if job.path in self.records:
                parts[job.stage].append(self.records[job.path])
        found = {record["path"] for record in parts["natives"]}
        for record in parts["adapters"]:
            record["natives"] = {target: _natives_of(record["style"], target, found) for target in TARGETS}
        with appearing(self.file) as partial:
            content = {
                "bases": parts["bases"],
                "adapters": parts["adapters"],
                "natives": parts["natives"],
                "bad": parts["broken"],
            }
            partial.write_text(json.dumps(content, indent=1) + "\n")


def _natives_of(style: str, target: str, found: set[str]) -> list[str]:
    names = [f"{style}.seed{seed}" if seed else style for seed in SEEDS.get(style, (0,))]
    return [path for path in (f"natives/{target}/{name}.safetensors" for name in names) if path in found]


def _report(job: Job, record: Record) -> None:
    losses = [
        f"{record[key]:.4f}"
        for key in ("held_out_loss", "held_out_loss_without", "held_out_loss_with")
        if key in record
    ]
    print(f"made {job.path} {' -> '.join(losses)} {record.get('seconds', '')}".rstrip(), flush=True)


def run(jobs: list[Job], index: Index, workers: int) -> None:
    """Run jobs as soon as what they need exists, in their order, a few at a time."""
    waiting = [job for job in jobs if not index.has(job)]
    running: dict[Future[Record], Job] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        while waiting or running:
            for job in [job for job in waiting if all((index.out / need).exists() for need in job.needs)]:
                if len(running) < workers:
                    waiting.remove(job)
                    running[pool.submit(job.call, *job.arguments)] = job
            if not running:
                lacking = sorted({need for job in waiting for need in job.needs if not (index.out / need).exists()})
                raise SystemExit(f"cannot go on without {', '.join(lacking)}: run the stages that make them first")
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                record = future.result()
                index.add(job, record)
                _report(job, record)


def main() -> None:
    """Read the command line and run the stages asked for."""
    parser = argparse.ArgumentParser(description="Make the digits example again; what exists is skipped.")
    parser.add_argument("--stage", choices=[*STAGES, "all"], default="all")
    parser.add_argument("--jobs", type=int, default=2, help="processes, each with one thread")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to (default: this folder)")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    started = time.perf_counter()
    run([job for job in plan(out) if arguments.stage in (job.stage, "all")], Index(out), arguments.jobs)
    print(f"done in {(time.perf_counter() - started) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
