"""first-steps: what a small step along the update of each site would do, where source+adapter is at home.

Rows are a few parts of the first half of own-samples; features are sites of the adapter that is looked at, in sorted
order. Rivals are not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lorax.adapter import Adapter
from lorax.running_model import RunningModel
from lorax.site_help import help_by_site, parted
from lorax.view import Look, Scene, View

_PARTS = 4


class _FirstSteps(Look):
    """One row for each part of the samples. What source+adapter says is run once for all conversions."""

    def __init__(self, scene: Scene) -> None:
        self._scene, self._probe = scene, scene.own_samples()
        half = max(1, scene.probe.samples // 2)
        self._parts = parted(scene.target, self._probe, samples=half, parts=_PARTS)
        self._said: list[list[Tensor]] | None = None
        self.group = torch.arange(len(self._parts))

    def batches(self) -> Sequence[slice]:
        """Returns all rows at once: they are few numbers."""
        return [slice(None)]

    def see(self, model: RunningModel, adapter: Adapter | None, rows: slice) -> Tensor:
        """Returns how fast the divergence falls along each update, (parts, sites); no column without any update."""
        if adapter is None or not adapter.updates:
            return torch.zeros(len(self._parts), 0, dtype=torch.float64)[rows]
        parts = [list(zip(part, said, strict=True)) for part, said in zip(self._parts, self._wanted(), strict=True)]
        return help_by_site(model, adapter, self._probe, parts)[rows]

    @torch.no_grad()
    def _wanted(self) -> list[list[Tensor]]:
        if self._said is None:
            scene = self._scene
            with scene.source.patched(scene.adapter):
                self._said = [[scene.source.run(self._probe, rows) for rows in part] for part in self._parts]
        return self._said


def look(scene: Scene) -> Mapping[str, Look]:
    """Takes the samples that own-samples looks at."""
    return {VIEW.name: _FirstSteps(scene)}


VIEW = View(
    "first-steps", "how fast the divergence falls along the update of each site", shared=False, open=look, rivals=False
)
