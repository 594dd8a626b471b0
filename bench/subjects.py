"""What the fidelity bench measures on: an example's base pairs and adapters, with adapters trained on the targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lorax.adapter import Adapter
from lorax.checkpoint import Checkpoint, open_checkpoint
from lorax.probe import ProbeSettings
from lorax.read import AdapterFiles, read_adapter
from lorax.running_model import RunningModel

Loss = Callable[[RunningModel, Adapter | None, str], Tensor]
"""loss(model, adapter, task): of a model with an adapter on a task's held-out samples, one number a sample, (n,)."""

NEUTRAL = "neutral"
"""The task that no adapter was trained for."""


@dataclass(frozen=True)
class Subject:
    """One adapter of the source, the task it was trained for, and where its natives on each target are.

    tuned: whether settings and defaults may have been chosen on it; figures for the others are the ones to quote.
    """

    task: str
    tuned: bool
    weights: Path
    natives: Mapping[str, Sequence[Path]]
    prompts: tuple[str, ...] = ()

    def adapter(self, source: Checkpoint) -> Adapter:
        """Reads the adapter."""
        return read_adapter(files_of(self.weights), candidates=[source.base], labels=(source.base.name,))

    def natives_on(self, target: Checkpoint) -> list[Adapter]:
        """Reads the adapters that were trained for the same task on a target."""
        paths = self.natives[target.base.name]
        return [read_adapter(files_of(path), candidates=[target.base], labels=(target.base.name,)) for path in paths]


@dataclass(frozen=True)
class Example:
    """Bases, adapters and how they are measured.

    targets: name -> how it is related to the source, in two or three words; training(base name, task, steps): seconds
    that so many steps of training an adapter took, all_steps: how many make an adapter; probe: of methods that
    calibrate; score: that conversions are scored on.
    """

    name: str
    bases: Path
    source: str
    targets: Mapping[str, str]
    subjects: Sequence[Subject]
    probe: ProbeSettings
    score: ProbeSettings
    loss: Loss
    training: Callable[[str, str, int], float]
    all_steps: int

    def open(self, name: str) -> Checkpoint:
        """Opens one of the bases."""
        return open_checkpoint(self.bases / name, name=name)


def files_of(weights: Path) -> AdapterFiles:
    """Returns an adapter's files: its weights, and peft's settings where they lie beside them."""
    config = weights.parent / "adapter_config.json"
    return AdapterFiles(weights, config if config.exists() else None, name=weights.name)
