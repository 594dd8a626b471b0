"""Scores conversions of one base pair: loads both bases once, runs the four anchors, measures every scorer's figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from lorax.adapter import Adapter
from lorax.diffusion_model import DiffusionModel, noise_for
from lorax.errors import Stop
from lorax.load_model import load_pair
from lorax.probe import Probe, ProbeSettings
from lorax.probes import PROBES
from lorax.running_model import RunningModel
from lorax.score_card import ScoreCard
from lorax.scorer import ADAPTED, SOURCE, TARGET, Anchors, measure
from lorax.scorers import SCORERS

ZERO = "zero"


class ScoreBench:
    """Both bases of a pair in memory, with what does not depend on the adapter computed once."""

    def __init__(self, source: RunningModel, target: RunningModel, *, settings: ProbeSettings, batch: int = 80) -> None:
        self.source, self.target = source, target
        self.settings, self.batch = settings, batch
        self._kept: dict[str, tuple[Probe, dict[str, Callable[[], Tensor]]]] = {}

    @classmethod
    def open(cls, source: Path, target: Path, *, settings: ProbeSettings, device: str = "cpu") -> ScoreBench:
        """Loads the folders of two bases; raises lorax.errors.Stop where that fails or they do not compare."""
        return cls(*load_pair(source, target, device=device), settings=settings)

    @property
    def draws_pictures(self) -> bool:
        """Tells whether `images` can be asked for."""
        return isinstance(self.source, DiffusionModel)

    def score(
        self, source_adapter: Adapter, candidates: Mapping[str, Adapter], *, fingerprints: Sequence[str] = ()
    ) -> ScoreCard:
        """Returns figures for each candidate adapter of the target, and for `zero`, on one set of probes."""
        outputs: dict[str, tuple[Probe, Anchors, dict[str, Tensor]]] = {}
        for name in sorted({scorer.probe for scorer in SCORERS.values()}):
            outputs[name] = self._run(name, source_adapter, candidates)
        figures = {
            candidate: {
                scorer.name: measure(
                    scorer,
                    outputs[scorer.probe][1],
                    candidate=outputs[scorer.probe][2][candidate],
                    group=outputs[scorer.probe][0].group,
                )
                for scorer in SCORERS.values()
            }
            for candidate in (*candidates, ZERO)
        }
        return ScoreCard(figures, self.settings.identity(*fingerprints, *source_adapter.trigger_words))

    def _run(
        self, name: str, adapter: Adapter, candidates: Mapping[str, Adapter]
    ) -> tuple[Probe, Anchors, dict[str, Tensor]]:
        """Returns a probe, the anchors on it (run when a scorer asks for them), and each candidate's outputs."""
        probe, plain = self._plain(name, adapter)
        runs = {**plain, ADAPTED: lambda: self._outputs(self.source, adapter, probe)}
        anchors = Anchors(runs, self.source.geometry)
        found = {label: self._outputs(self.target, candidate, probe) for label, candidate in candidates.items()}
        return probe, anchors, {**found, ZERO: anchors[TARGET]}

    def _plain(self, name: str, adapter: Adapter) -> tuple[Probe, dict[str, Callable[[], Tensor]]]:
        """Returns a probe with the two plain bases on it; drawn and run once where the adapter plays no part."""
        if not PROBES[name].depends_on_adapter and name in self._kept:
            return self._kept[name]
        probe = PROBES[name].draw(self.source, self.target, adapter, self.settings)
        plain: dict[str, Callable[[], Tensor]] = {
            SOURCE: cache(lambda: self._outputs(self.source, None, probe)),
            TARGET: cache(lambda: self._outputs(self.target, None, probe)),
        }
        if not PROBES[name].depends_on_adapter:
            self._kept[name] = (probe, plain)
        return probe, plain

    @torch.no_grad()
    def _outputs(self, model: RunningModel, adapter: Adapter | None, probe: Probe) -> Tensor:
        """Returns the model's outputs on every row of the probe, (rows, features)."""
        with model.patched(adapter):
            return torch.cat([model.run(probe, rows) for rows in probe.batches(self.batch)])

    def images(
        self,
        source_adapter: Adapter,
        candidates: Mapping[str, Adapter],
        *,
        prompts: Sequence[str],
        progress: Callable[[str], None] = lambda _row: None,
    ) -> dict[str, Tensor]:
        """Draws the before/after grid on equal noise: rows source, source+adapter, target, target+<candidate>.

        Each row is (prompts, height, width, channels) uint8. Raises Stop for models that draw no pictures.
        """
        if not isinstance(self.source, DiffusionModel) or not isinstance(self.target, DiffusionModel):
            raise Stop(f"a {self.source.kind} model draws no pictures")
        rows: list[tuple[str, DiffusionModel, Adapter | None]] = [
            (SOURCE, self.source, None),
            (ADAPTED, self.source, source_adapter),
            (TARGET, self.target, None),
            *((f"{TARGET}+{name}", self.target, adapter) for name, adapter in candidates.items()),
        ]
        noise = noise_for(self.source, count=len(prompts), seed=self.settings.seed + 2)
        drawn: dict[str, Tensor] = {}
        for label, model, adapter in rows:
            progress(label)
            with model.patched(adapter):
                latents = model.sample(prompts, noise, steps=self.settings.steps, guidance=self.settings.guidance)
            drawn[label] = model.to_images(latents)
        return drawn
