"""What a scorer looks at: outputs on a probe, pictures through an encoder, texts that were written, the weights.

A view opened for one adapter is a look: rows of numbers that each of the four anchors, and each conversion, is seen as.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from lorax.adapter import Adapter
from lorax.encoder import Encoder
from lorax.probe import Probe, ProbeSettings
from lorax.running_model import RunningModel
from lorax.score_settings import ScoreSettings


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """What views are opened on.

    adapter: of the source; probe: how inputs are drawn, its seed for this look; words: one prompt for each of the
    probe's samples, the adapter's own first; batch: rows that are run at once; encoders: by name.
    """

    source: RunningModel
    target: RunningModel
    adapter: Adapter
    probe: ProbeSettings
    words: tuple[str, ...] = ()
    settings: ScoreSettings = field(default_factory=ScoreSettings)
    batch: int = 80
    encoders: Mapping[str, Encoder] = field(default_factory=dict)
    _drawn: list[Probe] = field(default_factory=list)

    def own_samples(self) -> Probe:
        """Returns what shows samples of source+adapter's own, for the scene's words; drawn when first asked for."""
        if not self._drawn:
            with self.source.patched(self.adapter):
                samples = self.source.samples(self.words, settings=self.probe, seed=self.probe.seed)
            self._drawn.append(self.source.look_at(samples, prompts=self.words, settings=self.probe))
        return self._drawn[0]


class Look(ABC):
    """A view opened for one adapter.

    group: for each row the number of the sample it belongs to, counted from 0: rows of one are not independent.
    """

    group: Tensor

    @abstractmethod
    def batches(self) -> Sequence[slice]:
        """Returns slices of rows that cover the look; what is seen at once fits into memory."""

    @abstractmethod
    def see(self, model: RunningModel, adapter: Adapter | None, rows: slice) -> Tensor:
        """Returns rows (n, features), float32, of a model with an adapter; of equal meaning for every model."""

    def given(self, rows: slice) -> Mapping[str, Tensor]:
        """Returns what scorers get besides what models show, by name, each (n, features)."""
        del rows
        return {}


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One way of looking.

    `open(scene)` gives the looks that it has, by name: usually one under the view's own name, none where it cannot be
    taken (no encoder is configured, the models write no text); pictures give one for each encoder. shared: whether a
    look depends on nothing but bases and settings, so that it serves every adapter, and what the plain bases show in it
    is kept; once: whether it shows the same inputs for every seed, so that further rounds have nothing new to look at;
    rivals: whether rivals are looked at too, besides the conversion.
    """

    name: str
    summary: str
    shared: bool
    open: Callable[[Scene], Mapping[str, Look]]
    once: bool = False
    rivals: bool = True
