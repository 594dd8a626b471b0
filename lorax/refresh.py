"""refresh: distils source+adapter into an adapter of the same rank for the target, without task data.

The student starts from a transferred adapter and learns from samples that source+adapter draws itself: the method that
needs most time, and reaches most. Synthetic data from the adapted source as in Trans-LoRA (arXiv 2405.17258), but whole
predictions are learnt instead of the samples, and nothing is filtered.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lorax.adapter import Adapter
from lorax.probe import ProbeSettings
from lorax.refresh_lessons import Drift, Exam, Lesson, OwnSamples, neutral_probe
from lorax.refresh_student import Student
from lorax.refresh_teacher import Teacher
from lorax.running_model import RunningModel
from lorax.tensor_memory import Memory

Progress = Callable[[str, int, int], None]
Starts = Adapter | Mapping[str, Adapter]
"""What to start from: a transferred adapter, or several by name, of which the best is taken."""
_HELD_AT_ONCE = 4
"""Neutral samples that a step is held by."""
_NEAR_DRIFT = 0.9
"""Share of the allowed drift from which on it is held."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How much there is to learn, where the settings leave it open: samples, steps, batch and rate are theirs."""

    samples: int
    steps: int
    batch: int
    rate: float


NEAR = {"language": Pace(64, 24, 8, 6e-3), "diffusion": Pace(32, 25, 16, 1.2e-2)}
"""By kind of model, for a good start. Within a lineage what was carried over is right already, but for details."""
FAR = {"language": Pace(256, 340, 4, 1.1e-2), "diffusion": Pace(96, 200, 16, 1e-2)}
"""For other starts: between bases of unrelated training, or where blocks are missing."""
GOOD_START = 0.5
"""Least divergence gain of a good start."""


@dataclass(frozen=True, slots=True)
class RefreshSettings:
    """How a refresh is done.

    probe: prompts, length and noise levels of what is drawn (its `samples` is left aside);
    words: prompts that source+adapter draws for, one after the other; empty: those of the probe, with the adapter's
    trigger words;
    samples: to learn from; held_out: as many more that are never learnt from;
    steps, seconds: the budget, whichever ends first, drawing included; seconds None: steps alone;
    batch: texts, or noisy pictures, in a step; rate: the learning rate of updates with scale 1, reached after `warm_up`
    steps, falling to 0 at the end of the budget. None for any of samples, steps, batch and rate: see Pace;
    up_rate, text_rate: times as much for up factors, in the text encoders of diffusion
    models; mix: of the two teachers, see Teacher;
    neutral: samples without adapter, one half to measure drift on, the other to hold it by; 0 does without both;
    hold: weight of what drift exceeds the allowed one, 0 leaves it free; allowed: how much that is, in times of what
    the adapter causes in its own base;
    checks: how often the held-out samples are looked at; patience: checks without progress that end it;
    memory: bytes of teachers' outputs that are kept.
    """

    probe: ProbeSettings
    samples: int | None = None
    held_out: int = 8
    steps: int | None = None
    seconds: float | None = None
    batch: int | None = None
    rate: float | None = None
    up_rate: float = 1.0
    text_rate: float = 0.25
    warm_up: int = 5
    mix: float = 0.0
    neutral: int = 16
    hold: float = 0.3
    allowed: float = 1.0
    checks: int = 5
    patience: int = 3
    memory: int = 1 << 30
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Check:
    """What a check saw after some steps and seconds.

    gain: divergence gain on held-out samples; drift: of target+student from the target on neutral samples, as the
    scorers of these names measure them; not a number where the settings ask for no neutral samples.
    """

    step: int
    seconds: float
    gain: float
    drift: float


@dataclass(frozen=True, slots=True, eq=False)
class Refreshed:
    """The best adapter that a refresh came by, all checks, the first of them of the start, and the best one.

    starts: divergence gain of every start that there was to choose from; started_from: the name of the chosen one;
    allowed_drift: that to which the refresh was held; timed: whether the clock had a say in how fast or how long was
    learnt, so that the same input may give other bytes another time.
    """

    adapter: Adapter
    history: tuple[Check, ...]
    best: Check
    starts: Mapping[str, float]
    started_from: str
    allowed_drift: float
    timed: bool = False

    @property
    def start(self) -> Check:
        """Gives the check of the adapter that was started from."""
        return self.history[0]


def quiet(_stage: str, _done: int, _total: int) -> None:
    """Reports nothing."""


def never() -> bool:
    """Says no."""
    return False


def refresh(
    source: RunningModel,
    target: RunningModel,
    adapter: Adapter,
    start: Starts,
    settings: RefreshSettings,
    *,
    progress: Progress = quiet,
    stop: Callable[[], bool] = never,
) -> Refreshed:
    """Returns an adapter for the target that says what source+adapter says, on held-out samples no worse than `start`.

    adapter: of the source, of any algorithm; start: of the target, low-rank; of several the one with the
    highest divergence gain on held-out samples. The result has the sites, ranks, scales
    and vectors of `start`, factors float32. stop: asked before every step; True ends the budget. Equal input gives
    equal bytes on one machine where neither `seconds` nor `stop` ends it. Raises Stop for models whose outputs cannot
    be compared and for diffusion models without prompts, TypeError for a start that was not lowered.
    """
    (found,) = refresh_many(source, target, [(adapter, start)], settings, progress=progress, stop=stop)
    return found


def refresh_many(
    source: RunningModel,
    target: RunningModel,
    pairs: Sequence[tuple[Adapter, Starts]],
    settings: RefreshSettings,
    *,
    progress: Progress = quiet,
    stop: Callable[[], bool] = never,
) -> list[Refreshed]:
    """Refreshes several (adapter, start) of one pair of bases, on models and neutral samples that are shared.

    The budget is that of each adapter. Raises as `refresh` does.
    """
    source.require_comparable(target)
    with source.frozen(), target.frozen():
        shared = _Shared(source, target, settings)
        return [_Refresh(shared, adapter, start, progress).done(stop) for adapter, start in pairs]


class _Shared:
    """What the adapters of a pair have in common."""

    def __init__(self, source: RunningModel, target: RunningModel, settings: RefreshSettings) -> None:
        self.source, self.target, self.settings = source, target, settings
        self.drift: Drift | None = None
        if settings.neutral:
            probe = neutral_probe(source, target, replace(settings.probe, samples=settings.neutral))
            self.drift = Drift(source, target, probe, batches=-(-settings.neutral // _HELD_AT_ONCE))


class _Refresh:
    """The refresh of one adapter."""

    def __init__(self, shared: _Shared, adapter: Adapter, starts: Starts, progress: Progress) -> None:
        self._began = time.perf_counter()
        self._shared, self._progress = shared, progress
        source, target, settings = shared.source, shared.target, shared.settings
        self._allowed = settings.allowed * shared.drift.at_home(adapter) if shared.drift is not None else 0.0
        self._drift, self._timed = 0.0, False
        self._teacher = Teacher(source, target, adapter, mix=settings.mix)
        self._memory = Memory(settings.memory)
        progress("draw samples", 0, 1)
        samples = OwnSamples(source, adapter, settings.probe, prompts=settings.words)
        samples.draw(settings.held_out + (settings.samples or NEAR[source.kind].samples))
        probe = samples.probe(slice(settings.held_out))
        self._held_out = Exam.of(target, probe, Teacher(source, target, adapter, mix=0.0))
        self._without = self._held_out.divergence(None)
        named = {"": starts} if isinstance(starts, Adapter) else dict(starts)
        self._starts = {name: self._gain(start) for name, start in named.items()}
        self._started_from = max(self._starts, key=self._starts.__getitem__)
        self._student = Student(named[self._started_from], device=target.device)
        pace = (NEAR if self._starts[self._started_from] >= GOOD_START else FAR)[source.kind]
        self._pace = Pace(
            settings.samples or pace.samples,
            settings.steps or pace.steps,
            settings.batch or pace.batch,
            settings.rate or pace.rate,
        )
        samples.draw(settings.held_out + self._pace.samples)
        self._lessons = samples.lessons(slice(settings.held_out, None))
        progress("draw samples", 1, 1)

    def done(self, stop: Callable[[], bool]) -> Refreshed:
        """Trains to the end of the budget, and gives the best state that a check has seen."""
        history = [self._check(0)]
        best, kept = history[0], self._student.copied()
        steps = self._pace.steps
        every, step = max(1, round(steps / self._shared.settings.checks)), 0
        for step in self._trained(stop):
            if step % every and step < steps:
                continue
            history.append(self._check(step))
            if history[-1].gain > best.gain:
                best, kept = history[-1], self._student.copied()
            if history.index(best) + self._shared.settings.patience < len(history):
                break
        if step > history[-1].step:
            history.append(self._check(step))
            if history[-1].gain > best.gain:
                best, kept = history[-1], self._student.copied()
        self._progress("refresh", steps, steps)
        return Refreshed(kept, tuple(history), best, self._starts, self._started_from, self._allowed, self._timed)

    def _trained(self, stop: Callable[[], bool]) -> Iterator[int]:
        """Takes one step after the other and gives their number, from 1, until the budget is spent."""
        settings, pace = self._shared.settings, self._pace
        optimiser = self._student.optimiser(pace.rate, up_rate=settings.up_rate, text_rate=settings.text_rate)
        began = self._elapsed()
        for step, lesson in enumerate(self._lessons.batches(pace.batch)):
            spent, share = self._spent(step, began), step / pace.steps
            warm = (step + 1) / settings.warm_up
            self._timed |= share < 1 and min(warm, 1 - spent) != min(warm, 1 - share)
            if spent >= 1 or stop():
                return
            for group in optimiser.param_groups:
                group["lr"] = group["highest"] * min(warm, 1 - spent)
            optimiser.zero_grad()
            torch.autograd.backward(self._loss(lesson))
            self._hold(step)
            optimiser.step()
            self._progress("refresh", step + 1, pace.steps)
            yield step + 1

    def _loss(self, lesson: Lesson) -> Tensor:
        teacher, target = self._teacher, self._shared.target
        wanted = self._memory.get(lesson.key, lambda: teacher.outputs(lesson.probe, lesson.rows))
        with target.patched(self._student.adapter()):
            found = target.run(lesson.probe, lesson.rows)
        return target.geometry.divergence(wanted, found).mean()

    def _hold(self, step: int) -> None:
        """Adds the gradient of what drift exceeds the allowed one, once a check has seen it come near."""
        drift, weight = self._shared.drift, self._shared.settings.hold
        if drift is None or not weight or self._drift < _NEAR_DRIFT * self._allowed:
            return
        with self._shared.target.patched(self._student.adapter()):
            excess = drift.of_batch(step) - self._allowed * drift.unit
        if float(excess.detach()) > 0:
            torch.autograd.backward(weight * excess)

    def _spent(self, step: int, began: float) -> float:
        """Returns the share of the budget that is spent; time before the first step shortens the rest."""
        share, seconds = step / self._pace.steps, self._shared.settings.seconds
        if seconds is None:
            return share
        return max(share, (self._elapsed() - began) / max(seconds - began, 1e-9))

    def _check(self, step: int) -> Check:
        adapter = self._student.adapter()
        drift = self._shared.drift
        self._drift = drift.measured(adapter) if drift is not None else math.nan
        return Check(step, self._elapsed(), self._gain(adapter), self._drift)

    def _gain(self, adapter: Adapter) -> float:
        return 1 - self._held_out.divergence(adapter) / max(self._without, 1e-30)

    def _elapsed(self) -> float:
        return time.perf_counter() - self._began
