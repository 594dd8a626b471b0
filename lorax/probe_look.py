"""The look that most scorers take: the models' own outputs, row by row, on a probe."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lorax.adapter import Adapter
from lorax.probe import Probe
from lorax.running_model import RunningModel
from lorax.view import Look


class ProbeLook(Look):
    """Outputs (rows, features) on a probe. Batches are cut so that a batch of outputs stays in bounds."""

    def __init__(self, probe: Probe, *, batch: int) -> None:
        self.probe = probe
        self.group = probe.group
        self._batches = probe.batches(batch)

    def batches(self) -> Sequence[slice]:
        """Returns slices of the probe's own rows."""
        return self._batches

    @torch.no_grad()
    def see(self, model: RunningModel, adapter: Adapter | None, rows: slice) -> Tensor:
        """Returns the model's outputs."""
        with model.patched(adapter):
            return model.run(self.probe, rows)
