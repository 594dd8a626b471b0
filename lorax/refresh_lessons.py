"""What a refresh looks at: samples to learn from, others to choose the best state by, neutral ones to hold drift on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lorax.adapter import Adapter
from lorax.geometry import Geometry
from lorax.probe import Probe, ProbeSettings, prompts_for
from lorax.probes import PROBES
from lorax.refresh_teacher import Teacher
from lorax.running_model import RunningModel

AT_ONCE = 64
"""Rows of a probe that are run at once where no gradient is wanted."""
_OWN_CHANCE = 77_003
"""Added to the probe's seed: what is learnt from is never what plans are calibrated or conversions scored on."""


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """Some rows of a probe, to be learnt in one step.

    key: lessons of equal number are the same; None for one that never comes again.
    """

    probe: Probe
    rows: slice
    key: int | None


class Lessons:
    """Gives batches of samples without end, in an order drawn from the settings' seed.

    Language models see the same texts again in every round, diffusion models the same pictures under other noise.
    """

    def __init__(
        self, model: RunningModel, samples: Tensor, prompts: tuple[str, ...], *, settings: ProbeSettings
    ) -> None:
        self._model, self._samples, self._prompts, self._settings = model, samples, prompts, settings

    def batches(self, size: int) -> Iterator[Lesson]:
        """Gives batches of at most `size` rows."""
        generator = torch.Generator().manual_seed(self._settings.seed)
        shown, probe = self._settings, self._shown(self._settings)
        while True:
            wanted = self._model.shown_anew(self._settings, generator=generator)
            if wanted != shown:
                shown, probe = wanted, self._shown(wanted)
            rows = probe.batches(size)
            for index in torch.randperm(len(rows), generator=generator).tolist():
                yield Lesson(probe, rows[index], index if shown == self._settings else None)

    def _shown(self, settings: ProbeSettings) -> Probe:
        return self._model.look_at(self._samples, prompts=self._prompts, settings=settings)


def _rows(probe: Probe) -> int:
    return int(probe.batches(1 << 40)[0].stop)


class Exam:
    """A probe with the outputs that are wanted on it, and what the plain target is off by there."""

    def __init__(self, target: RunningModel, probe: Probe, wanted: list[Tensor]) -> None:
        self._target, self._probe, self._wanted = target, probe, wanted

    @classmethod
    def of(cls, target: RunningModel, probe: Probe, teacher: Teacher) -> Exam:
        """Runs a teacher on a probe."""
        return cls(target, probe, [teacher.outputs(probe, rows) for rows in probe.batches(AT_ONCE)])

    @torch.no_grad()
    def divergence(self, adapter: Adapter | None) -> float:
        """Returns the sum over all rows of the divergence of target+adapter from what is wanted."""
        geometry: Geometry = self._target.geometry
        total = 0.0
        with self._target.patched(adapter):
            for rows, wanted in zip(self._probe.batches(AT_ONCE), self._wanted, strict=True):
                total += float(geometry.divergence(wanted, self._target.run(self._probe, rows)).double().sum())
        return total


class Drift:
    """Neutral samples: the first half to measure drift on, the rest to hold it by.

    unit: the mean size of what the target says there, which drift is measured in.
    """

    def __init__(self, source: RunningModel, target: RunningModel, probe: Probe, *, batches: int) -> None:
        self._source, self._target, self._probe = source, target, probe
        parts = probe.batches(-(-_rows(probe) // batches))
        self._measured, self._held = parts[: (len(parts) + 1) // 2], parts[len(parts) // 2 :]
        with torch.no_grad():
            self._plain = {rows.start: target.run(probe, rows) for rows in parts}
        sizes = [target.geometry.size(self._plain[rows.start]) for rows in self._measured]
        self.unit = float(torch.cat(sizes).mean())

    @torch.no_grad()
    def measured(self, adapter: Adapter) -> float:
        """Returns how far an adapter moves the target, in units."""
        with self._target.patched(adapter):
            found = [self._of(self._target, self._plain[rows.start], rows) for rows in self._measured]
        return float(torch.cat(found).mean()) / max(self.unit, 1e-30)

    @torch.no_grad()
    def at_home(self, adapter: Adapter) -> float:
        """Returns how far an adapter moves the source, measured by what the source says."""
        plain = [self._source.run(self._probe, rows) for rows in self._measured]
        with self._source.patched(adapter):
            moved = [self._of(self._source, each, rows) for each, rows in zip(plain, self._measured, strict=True)]
        sizes = torch.cat([self._source.geometry.size(each) for each in plain])
        return float(torch.cat(moved).mean() / sizes.mean().clamp_min(1e-30))

    def of_batch(self, step: int) -> Tensor:
        """Returns how far the target as it is patched now has moved on some samples, a mean over rows."""
        rows = self._held[step % len(self._held)]
        return self._of(self._target, self._plain[rows.start], rows).mean()

    def _of(self, model: RunningModel, plain: Tensor, rows: slice) -> Tensor:
        return model.geometry.divergence(plain, model.run(self._probe, rows))


class OwnSamples:
    """Gives samples that source+adapter draws for the adapter's own words; more of them when more are wanted.

    prompts: to draw for; empty for those of the settings, with the adapter's trigger words.
    """

    def __init__(
        self, source: RunningModel, adapter: Adapter, settings: ProbeSettings, *, prompts: tuple[str, ...] = ()
    ) -> None:
        self._source, self._adapter = source, adapter
        self._settings = replace(settings, prompts=prompts) if prompts else settings
        words = () if prompts else adapter.trigger_words
        self._words = [word for word in words if word not in settings.prompts]
        self._drawn: list[Tensor] = []

    def draw(self, count: int) -> None:
        """Draws until there are `count` samples; how often it is called does not change what they are."""
        settings, already = replace(self._settings, samples=count), sum(map(len, self._drawn))
        if count <= already:
            return
        with self._source.patched(self._adapter):
            fresh = self._source.samples(
                prompts_for(settings, self._words),
                settings=settings,
                seed=settings.seed + _OWN_CHANCE,
                rows=slice(already, None),
            )
        self._drawn.append(fresh)

    def probe(self, rows: slice) -> Probe:
        """Returns a probe that shows some of them."""
        samples, prompts = self._some(rows)
        return self._source.look_at(samples, prompts=prompts, settings=self._settings)

    def lessons(self, rows: slice) -> Lessons:
        """Returns lessons on some of them."""
        samples, prompts = self._some(rows)
        return Lessons(self._source, samples, prompts, settings=self._settings)

    def _some(self, rows: slice) -> tuple[Tensor, tuple[str, ...]]:
        drawn = torch.cat(self._drawn)
        settings = replace(self._settings, samples=len(drawn))
        return drawn[rows], prompts_for(settings, self._words)[rows]


def neutral_probe(source: RunningModel, target: RunningModel, settings: ProbeSettings) -> Probe:
    """Returns a probe of samples that no adapter had a hand in."""
    return PROBES["neutral"].draw(source, target, None, replace(settings, seed=settings.seed + _OWN_CHANCE))
