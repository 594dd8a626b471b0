"""The teacher of a refresh: what the outputs of target+student should be on given rows of a probe."""

from __future__ import annotations

import torch
from torch import Tensor

from lorax.adapter import Adapter
from lorax.geometry import LOG_PROBABILITIES, Geometry
from lorax.probe import Probe
from lorax.running_model import RunningModel


class Teacher:
    """Gives outputs to learn from: source+adapter + mix * (target - source), renormalised where they are probabilities.

    mix 0: source+adapter itself. mix 1: the target with the adapter's effect at home. Between them the student keeps a
    part of what the target knows better than the source.
    """

    def __init__(self, source: RunningModel, target: RunningModel, adapter: Adapter, *, mix: float) -> None:
        self._source, self._target, self._adapter, self._mix = source, target, adapter, mix

    @torch.no_grad()
    def outputs(self, probe: Probe, rows: slice) -> Tensor:
        """Returns the wanted outputs (n, features), float32."""
        with self._source.patched(self._adapter):
            wanted = self._source.run(probe, rows)
        if not self._mix:
            return wanted
        moved = self._target.run(probe, rows) - self._source.run(probe, rows)
        return normalised(self._source.geometry, wanted + self._mix * moved)


def normalised(geometry: Geometry, outputs: Tensor) -> Tensor:
    """Returns outputs as the geometry wants them: log-probabilities of rows that add up to one, others untouched."""
    return outputs.log_softmax(-1) if geometry is LOG_PROBABILITIES else outputs
