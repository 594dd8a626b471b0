"""Make everything in this folder again: held-out samples, bases, adapters, natives and index.json.

    python examples/text/train.py [--stage STAGE] [--out FOLDER]

What exists already is skipped and a base goes on from its last hundred steps, so a stopped run loses little. One
process, one thread, seeds fixed; two processes may work on different stages of one folder.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))  # so that `examples.text` is found when this file is run as a script

import torch  # noqa: E402
from torch import nn  # noqa: E402

from examples.text import adapters, domains, models  # noqa: E402
from examples.text.bases import BATCH, RUNS, Run, train_run  # noqa: E402
from examples.text.domains import DOMAINS, NEUTRAL  # noqa: E402
from examples.text.index import Index, Record  # noqa: E402
from examples.text.measure import loss  # noqa: E402

SOURCE = "text-v1"
TARGETS = ("text-v2", "text-other", "text-wide")
SECOND_SEEDS = ("shouting", "json")
"""Domains trained natively with a second seed, to show how far two trainings of the same thing lie apart."""
STAGES = ("held-out", "bases", "adapters", "natives")

Made = Iterator[tuple[str, Record]]


@dataclass(frozen=True)
class Job:
    """Something to make: its paths, what must exist before, and the call that gives each path with its record."""

    stage: str
    paths: tuple[str, ...]
    call: Callable[[Path], Made]
    needs: tuple[str, ...] = ()


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A hidden neighbour of a folder to write to; it becomes the folder at the end, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield unfinished
        if path.is_dir():
            shutil.rmtree(path)
        unfinished.replace(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _losses(model: nn.Module, out: Path, texts: tuple[str, ...]) -> dict[str, float]:
    return {text: round(loss(model, domains.held_out(text, out)), 5) for text in texts}


def make_sample(domain: str, out: Path) -> Made:
    """Writes the held-out sample of a domain or of neutral text."""
    file = domains.sample_file(domain, out)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(domains.make_sample(domain).encode())
    yield f"held_out/{domain}.txt", {"domain": domain, "bytes": file.stat().st_size}


def make_bases(run: Run, out: Path) -> Made:
    """Trains a run and writes its bases, each when its step is reached."""
    for kept in train_run(run, out / ".training"):
        path = f"bases/{kept.name}"
        with appearing(out / path) as folder:
            models.save_base(kept.model, folder)
        record = {"name": kept.name, "run": run.name, "seed": run.seed, "steps": kept.steps, "batch": BATCH}
        losses = _losses(models.open_base(out / path), out, (NEUTRAL, *DOMAINS))
        yield path, {**record, **run.shape, "seconds": round(kept.seconds, 1), "held_out_losses": losses}


def make_adapter(base_name: str, domain: str, seed: int, path: str, out: Path) -> Made:
    """Trains an adapter on a base, writes it, and measures the written one."""
    folder = out / "bases" / base_name
    started = time.perf_counter()
    trained = adapters.train_adapter(models.open_base(folder), domain, seed)
    seconds = time.perf_counter() - started
    with appearing(out / path) as unfinished:
        adapters.save_adapter(trained, unfinished, base_name, domain)
    base = models.open_base(folder)
    without = _losses(base, out, (domain, NEUTRAL))
    adapted = _losses(adapters.open_adapter(base, out / path), out, (domain, NEUTRAL))
    yield (
        path,
        {
            "name": Path(path).name,
            "domain": domain,
            "base": base_name,
            "rank": adapters.RANK,
            "alpha": adapters.ALPHA,
            "seed": seed,
            "steps": adapters.STEPS,
            "batch": adapters.BATCH,
            "held_out_loss_without": without[domain],
            "held_out_loss_with": adapted[domain],
            "neutral_loss_without": without[NEUTRAL],
            "neutral_loss_with": adapted[NEUTRAL],
            "seconds": round(seconds, 1),
        },
    )


def _adapter_job(base: str, domain: str, seed: int) -> Job:
    stage, folder = ("adapters", "adapters") if base == SOURCE else ("natives", f"natives/{base}")
    path = f"{folder}/{domain}.seed{seed}" if seed else f"{folder}/{domain}"
    needs = (f"bases/{base}", *(f"held_out/{text}.txt" for text in (domain, NEUTRAL)))
    return Job(stage, (path,), partial(make_adapter, base, domain, seed, path), needs)


def plan() -> list[Job]:
    """Gives every job, the most wanted first."""
    texts = [Job("held-out", (f"held_out/{text}.txt",), partial(make_sample, text)) for text in (NEUTRAL, *DOMAINS)]
    needs = tuple(path for job in texts for path in job.paths)
    runs = [
        Job("bases", tuple(f"bases/{name}" for name in run.keeps.values()), partial(make_bases, run), needs)
        for run in RUNS
    ]
    main, *others = runs
    own = [_adapter_job(SOURCE, domain, 0) for domain in DOMAINS]
    natives = [[_adapter_job(target, domain, 0) for domain in DOMAINS] for target in TARGETS]
    seconds = [_adapter_job(target, domain, 1) for target in TARGETS for domain in SECOND_SEEDS]
    rest = [job for run, made in zip(others, natives[1:], strict=True) for job in (run, *made)]
    return [*texts, main, *own, *natives[0], *rest, *seconds]


def run_jobs(jobs: list[Job], index: Index) -> None:
    """Runs the jobs whose paths lack a record, in their order. Stops the program where something needed is missing."""
    for job in jobs:
        if all(path in index.records for path in job.paths):
            continue
        lacking = [need for need in job.needs if not (index.out / need).exists()]
        if lacking:
            raise SystemExit(f"{job.paths[0]} needs {', '.join(lacking)}: run the stages that make them first")
        for path, record in job.call(index.out):
            index.add(path, record)
            losses = [f"{record[key]:.3f}" for key in ("held_out_loss_without", "held_out_loss_with") if key in record]
            print(f"made {path} {' -> '.join(losses)} {record.get('held_out_losses', '')}".rstrip(), flush=True)


def main() -> None:
    """Reads the command line and runs the stages asked for."""
    parser = argparse.ArgumentParser(description="Make the text example again; what exists is skipped.")
    parser.add_argument("--stage", choices=[*STAGES, "all"], default="all")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to (default: this folder)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    jobs = plan()
    index = Index(arguments.out.resolve(), [path for job in jobs for path in job.paths])
    started = time.perf_counter()
    run_jobs([job for job in jobs if arguments.stage in (job.stage, "all")], index)
    print(f"done in {(time.perf_counter() - started) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
