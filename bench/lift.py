"""Recovered lift R of every transfer method on the digits example, against adapters trained natively on the target.

    python bench/lift.py [--target digits-v2] [--methods copy,calibrated] [--images 240]

R = (loss of the target - loss with the transferred adapter) / (loss of the target - loss with the native one), with
denoising losses on held-out images in the adapter's style, the same noise and timesteps for all. 1 is as good as
retraining, 0 as good as doing nothing, below 0 is harm. Where several natives were trained (other seeds) their mean
loss is the yardstick, and each of them scored against the others' mean is the row `native`: the spread of retraining.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from examples.digits import styles  # noqa: E402 - the example is no installed package
from lorax.adapter import Adapter  # noqa: E402
from lorax.checkpoint import Checkpoint, open_checkpoint  # noqa: E402
from lorax.convert import Conversion, convert_adapters  # noqa: E402
from lorax.diffusion_model import DiffusionModel, load_diffusion_model  # noqa: E402
from lorax.methods import METHODS  # noqa: E402
from lorax.prepare import prepare_plan  # noqa: E402
from lorax.probe import ProbeSettings  # noqa: E402
from lorax.read import AdapterFiles, read_adapter  # noqa: E402

DIGITS = ROOT / "examples" / "digits"
SOURCE = "digits-v1"
TIMESTEPS = (50, 150, 300, 450, 600, 750, 900)
PROBE = ProbeSettings(prompts=tuple(f"a handwritten {word}" for word in styles.WORDS), samples=40)


@dataclass(frozen=True)
class Subject:
    """One adapter with the natives that it is measured against."""

    name: str
    style: str
    adapter: Adapter
    natives: tuple[Adapter, ...]


@torch.no_grad()
def loss(model: DiffusionModel, adapter: Adapter | None, *, style: str, images: int) -> float:
    """Returns the mean squared error of the predicted noise on held-out images of a style."""
    pictures, labels = styles.images(style, "test")
    pictures, labels = pictures[:images], labels[:images]
    captions = styles.captions(style, labels, 7)
    total = 0.0
    with model.patched(adapter):
        states = model.encode(captions)
        for timestep in TIMESTEPS:
            noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(timestep))
            timesteps = torch.full((len(pictures),), timestep)
            noisy = model.add_noise(pictures, noise, timesteps=timesteps)
            total += F.mse_loss(model.predict(noisy, timesteps, states=states), noise).item()
    return total / len(TIMESTEPS)


def subjects(index: Mapping[str, Any], bases: Sequence[Checkpoint], target: str) -> list[Subject]:
    """Returns every adapter of the catalogue whose style was also trained natively on the target, once per style."""
    candidates = [base.base for base in bases]
    found: dict[str, Subject] = {}
    for record in index["adapters"]:
        natives = record["natives"].get(target, [])
        if natives and record["style"] not in found:
            found[record["style"]] = Subject(
                record["name"],
                record["style"],
                read_adapter(_files(record["weights"]), candidates=candidates, labels=(SOURCE,)),
                tuple(read_adapter(_files(path), candidates=candidates, labels=(target,)) for path in natives),
            )
    return list(found.values())


def _files(relative: str) -> AdapterFiles:
    weights = DIGITS / relative
    config = weights.parent / "adapter_config.json"
    return AdapterFiles(weights, config if config.exists() else None, name=relative)


def measure(
    subject: Subject, transferred: Mapping[str, Adapter], *, model: DiffusionModel, images: int
) -> dict[str, float]:
    """Returns R of every transferred adapter, and of each native against the others where there are several."""
    plain = loss(model, None, style=subject.style, images=images)
    own = [loss(model, native, style=subject.style, images=images) for native in subject.natives]
    lift = plain - mean(own)
    found = {
        name: (plain - loss(model, adapter, style=subject.style, images=images)) / lift
        for name, adapter in transferred.items()
    }
    if len(own) > 1:
        worst = max(own)
        found["worst native seed"] = (plain - worst) / lift
    return found


def interval(values: Sequence[float], resamples: int = 5000) -> tuple[float, float]:
    """Returns the 95 % bootstrap interval of the mean over styles."""
    drawn = torch.tensor(values)[
        torch.randint(len(values), (resamples, len(values)), generator=torch.Generator().manual_seed(0))
    ]
    low, high = torch.quantile(drawn.mean(1), torch.tensor([0.025, 0.975])).tolist()
    return low, high


def main() -> None:
    """Measures and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="digits-v2")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--images", type=int, default=240)
    parser.add_argument("--settings", default="{}", help="JSON, settings for every method that has them")
    arguments = parser.parse_args()
    source, target = (open_checkpoint(DIGITS / "bases" / name, name=name) for name in (SOURCE, arguments.target))
    index = json.loads((DIGITS / "index.json").read_text())
    measured = subjects(index, (source, target), arguments.target)
    model = load_diffusion_model(target.folder)
    table: dict[str, dict[str, float]] = {subject.style: {} for subject in measured}
    seconds: dict[str, tuple[float, float]] = {}
    transferred: dict[str, dict[str, Adapter]] = {subject.style: {} for subject in measured}
    for method in arguments.methods.split(","):
        wanted = json.loads(arguments.settings)
        settings = {key: value for key, value in wanted.items() if key in METHODS[method].settings}
        began = time.perf_counter()
        plan = prepare_plan(source, target, method=method, settings=settings, probe=PROBE)
        compiled = time.perf_counter()
        conversions = convert_adapters(plan, [subject.adapter for subject in measured], target=target.base)
        seconds[method] = (compiled - began, (time.perf_counter() - compiled) / max(1, len(measured)))
        for subject, conversion in zip(measured, conversions, strict=True):
            if isinstance(conversion, Conversion):
                transferred[subject.style][method] = conversion.adapter
    for subject in measured:
        table[subject.style] = measure(subject, transferred[subject.style], model=model, images=arguments.images)
    show(table, seconds, arguments.target)


def show(table: Mapping[str, Mapping[str, float]], seconds: Mapping[str, tuple[float, float]], target: str) -> None:
    """Prints R per style and method, with means, intervals and times."""
    names = [*seconds, "worst native seed"]
    printed = Table(title=f"Recovered lift R, {SOURCE} -> {target}")
    printed.add_column("style")
    for name in names:
        printed.add_column(name, justify="right")
    for style, row in table.items():
        printed.add_row(style, *(f"{row[name]:.2f}" if name in row else "" for name in names))
    printed.add_section()
    by_name = {name: [row[name] for row in table.values() if name in row] for name in names}
    printed.add_row("mean", *(f"{mean(values):.2f}" if values else "" for values in by_name.values()))
    spans = {name: interval(values) if values else None for name, values in by_name.items()}
    printed.add_row("95 %", *(f"{span[0]:.2f}..{span[1]:.2f}" if span else "" for span in spans.values()))
    printed.add_row("plan, s", *(f"{seconds[name][0]:.1f}" if name in seconds else "" for name in names))
    printed.add_row("adapter, ms", *(f"{1000 * seconds[name][1]:.1f}" if name in seconds else "" for name in names))
    Console(width=120).print(printed)


if __name__ == "__main__":
    main()
