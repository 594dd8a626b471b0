"""Training of the bases: v1 and v2 are two moments of one run; other and wide are runs of their own."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from examples.text import corpus
from examples.text.models import CONTEXT, NARROW, WIDE, make_model, stream, windows

BATCH = 8
DOCUMENTATION_SHARE = 0.25
"""Share of windows from the language reference, far above its share of the text, so that the bases learn prose too."""
PEAK = 3e-3
KEEP_EVERY = 100


@dataclass(frozen=True)
class Run:
    """One training run. keeps: at which step which base is written."""

    name: str
    seed: int
    steps: int
    keeps: dict[int, str]
    shape: dict[str, int] = field(default_factory=lambda: dict(NARROW))


RUNS = (
    Run("main", 1, 1800, {1000: "text-v1", 1800: "text-v2"}),
    Run("other", 2, 1200, {1200: "text-other"}),
    Run("wide", 3, 1000, {1000: "text-wide"}, dict(WIDE)),
)


class Kept(NamedTuple):
    """A base as its run left it."""

    name: str
    model: LlamaForCausalLM
    steps: int
    seconds: float


def cosine(step: int, steps: int, warm_up: int = 100, floor: float = 0.05) -> float:
    """Gives the learning rate factor: a short rise, then half a cosine down to the floor."""
    if step < warm_up:
        return (step + 1) / warm_up
    share = (step - warm_up) / max(1, steps - warm_up)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share))


def next_byte_loss(model: nn.Module, tokens: Tensor) -> Tensor:
    """Gives the mean loss, in nats, of predicting each token (batch, length) from those before it."""
    logits = model(input_ids=tokens, use_cache=False).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def draw_batch(prose: Tensor, code: Tensor, seed: int, step: int) -> Tensor:
    """Gives the windows (8, 256) of a step. They hang on seed and step alone, so a resumed run sees the same ones."""
    generator = torch.Generator().manual_seed(1_000_000 * seed + step)
    of_prose = int((torch.rand(BATCH, generator=generator) < DOCUMENTATION_SHARE).sum())
    return torch.cat(
        [windows(prose, (of_prose, CONTEXT), generator), windows(code, (BATCH - of_prose, CONTEXT), generator)]
    )


def take_step(
    model: nn.Module, optimiser: torch.optim.Optimizer, batch: Tensor, rate: float, weights: Iterable[Tensor]
) -> float:
    """Makes one step of AdamW with clipped gradients. Returns the loss before it."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    value = next_byte_loss(model, batch)
    optimiser.zero_grad()
    value.backward()  # type: ignore[no-untyped-call,unused-ignore]
    nn.utils.clip_grad_norm_(list(weights), 1.0)
    optimiser.step()
    return value.item()


MODEL, OPTIMISER = "model.", "optimiser."


class Progress:
    """What a stopped run goes on from: a file beside the results, gone once the run is through."""

    def __init__(self, file: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        self.file, self.model, self.optimiser = file, model, optimiser
        self.seconds = 0.0

    def restore(self) -> int:
        """Puts model and optimiser where the file left them. Returns the next step."""
        if not self.file.exists():
            return 0
        with safe_open(self.file, framework="pt") as kept:
            tensors = {name: kept.get_tensor(name) for name in kept.keys()}  # noqa: SIM118 - it is no mapping
            told = kept.metadata()
        self.model.load_state_dict(
            {name.removeprefix(MODEL): tensors[name] for name in tensors if name.startswith(MODEL)}
        )
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith(OPTIMISER):
                index, _, field = name.removeprefix(OPTIMISER).partition(".")
                state.setdefault(int(index), {})[field] = tensor
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": state, "param_groups": groups})
        self.seconds = float(told["seconds"])
        return int(told["step"])

    def keep(self, step: int) -> None:
        """Writes the file, whole or not at all."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        tensors = {f"{MODEL}{name}": tensor for name, tensor in self.model.state_dict().items()}
        for index, fields in self.optimiser.state_dict()["state"].items():
            tensors |= {f"{OPTIMISER}{index}.{field}": torch.as_tensor(value) for field, value in fields.items()}
        partial = self.file.with_suffix(".partial")
        told = {"step": str(step), "seconds": repr(self.seconds)}
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, metadata=told)
        partial.replace(self.file)


def train_run(run: Run, scratch: Path) -> Iterator[Kept]:
    """Trains a run, going on where it was stopped, and gives each base when its step is reached."""
    model = make_model(run.shape, run.seed).train()
    weights = list(model.parameters())
    optimiser = torch.optim.AdamW(weights, lr=PEAK, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    progress = Progress(scratch / f"{run.name}.safetensors", model, optimiser)
    prose = stream(corpus.of_part(corpus.documentation(), "train"))
    code = stream(corpus.of_part(corpus.sources(), "train"))
    recent = 0.0
    for step in range(progress.restore(), run.steps):
        started = time.perf_counter()
        batch = draw_batch(prose, code, run.seed, step)
        value = take_step(model, optimiser, batch, PEAK * cosine(step, run.steps), weights)
        progress.seconds += time.perf_counter() - started
        recent = 0.98 * recent + 0.02 * value if recent else value
        if step + 1 in run.keeps:
            twin = make_model(run.shape, run.seed)
            twin.load_state_dict(model.state_dict())
            yield Kept(run.keeps[step + 1], twin, step + 1, progress.seconds)
        if (step + 1) % KEEP_EVERY == 0:
            print(f"{run.name}: step {step + 1} of {run.steps}, loss {recent:.3f}", flush=True)
            progress.keep(step + 1)
    progress.file.unlink(missing_ok=True)
