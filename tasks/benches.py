"""Loaded pairs of bases for scoring: as many at once as the machine has room for.

An adapter is patched into the models for the length of a look, so two scores must never share a pair. Small bases are
loaded once per core and run on one thread each: their layers are too small to share out. Large bases, and those on an
accelerator, are loaded once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from lorax.encoder import Encoder
from lorax.encoders import ENCODERS
from lorax.errors import Stop
from lorax.probe import ProbeSettings
from lorax.score import ScoreBench
from lorax.score_settings import ScoreSettings
from tasks.encoders import encoder_folder
from tasks.planning import probe_settings

SMALL_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class EncoderChoice:
    """An encoder of the migration: its name there, its kind and its folder."""

    name: str
    kind: str
    path: str


@dataclass(frozen=True, slots=True)
class ScoreTask:
    """How a bench is to score: its probe, what else scores depend on, and the encoders."""

    probe: ProbeSettings
    settings: ScoreSettings
    encoders: tuple[EncoderChoice, ...] = ()

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> ScoreTask:
        """Reads the plain values of a migration's `scoring()`."""
        known = {field.name for field in fields(ScoreSettings)}
        chosen = {name: value for name, value in values.items() if name in known}
        settings = ScoreSettings(**{**chosen, **_tuples(chosen)})
        choices = values.get("encoders", {})
        encoders = tuple(EncoderChoice(name, one["kind"], one["path"]) for name, one in sorted(choices.items()))
        return cls(probe_settings(values), settings, encoders)


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of JSON's values that are lists, as tuples."""
    return {name: tuple(value) for name, value in values.items() if isinstance(value, list)}


class BenchPool:
    """Lends benches for one pair of folders, at most `limit` at a time; loads one when all others are lent."""

    def __init__(self, folders: tuple[str, str], *, device: str, limit: int) -> None:
        self._folders, self._device = folders, device
        self._free: list[ScoreBench] = []
        self._room = threading.BoundedSemaphore(limit)
        self._loading = threading.Lock()
        self.limit = limit

    @contextmanager
    def lent(self, task: ScoreTask) -> Iterator[ScoreBench]:
        """Yields a bench that nobody else has, set for a task; raises lorax.errors.Stop where a base does not open."""
        with self._room:
            bench = self._take(task.probe)
            bench.settings, bench.score_settings = task.probe, task.settings
            try:
                bench.encoders = {one.name: open_encoder(one, self._device) for one in task.encoders}
                yield bench
            finally:
                self._free.append(bench)

    def _take(self, probe: ProbeSettings) -> ScoreBench:
        if self._device == "cpu":
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // self.limit))
        # One at a time: the libraries that load models do so with settings of the whole process.
        with self._loading:
            if self._free:
                return self._free.pop()
            source, target = map(Path, self._folders)
            return ScoreBench.open(source, target, settings=probe, device=self._device)


@lru_cache(maxsize=1)
def pool_of(folders: tuple[str, str], device: str) -> BenchPool:
    """Returns the pool of a pair of folders, kept for the next shard; the pair before it is let go."""
    return BenchPool(folders, device=device, limit=room_for(folders, device=device))


@lru_cache(maxsize=8)
def open_encoder(choice: EncoderChoice, device: str) -> Encoder:
    """Returns a loaded encoder, kept for the next shard. Raises lorax.errors.Stop where it does not open."""
    if choice.kind not in ENCODERS:
        raise Stop(f"[encoders.{choice.name}]: there is no kind {choice.kind!r}; known: {', '.join(ENCODERS)}")
    return ENCODERS[choice.kind].open(encoder_folder(choice.path), device)


def room_for(folders: tuple[str, str], *, device: str) -> int:
    """Returns how many benches of a pair may be loaded: one per core where both bases are small and on the CPU."""
    if device != "cpu":
        return 1
    largest = max(sum(file.stat().st_size for file in Path(folder).rglob("*.safetensors")) for folder in folders)
    return (os.cpu_count() or 1) if largest <= SMALL_BYTES else 1
