"""Scores conversions of one base pair: both bases are loaded once, and adapters are swapped into them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorax.adapter import Adapter
from lorax.encoder import Encoder
from lorax.errors import Stop
from lorax.load_model import load_pair
from lorax.own_words import OwnPrompts, own_prompts
from lorax.picture_model import PictureModel, noise_for
from lorax.probe import ProbeSettings
from lorax.running_model import RunningModel
from lorax.score_card import ScoreCard
from lorax.score_settings import ScoreSettings
from lorax.scorer import ADAPTED, SOURCE, TARGET, Anchors, Scorer, by_sample
from lorax.scorers import SCORERS
from lorax.tally import Tally
from lorax.tensor_memory import Memory
from lorax.view import Look, Scene, View
from lorax.views import VIEWS

ZERO, RIVALS = "zero", ("copy", "random")
_MOST_KEPT = 1 << 30
"""Bytes of outputs of plain bases that are remembered."""


class ScoreBench:
    """Both bases of a pair in memory, with what does not depend on the adapter computed once."""

    def __init__(
        self,
        source: RunningModel,
        target: RunningModel,
        *,
        settings: ProbeSettings,
        score: ScoreSettings = ScoreSettings(),  # noqa: B008 - frozen
        encoders: Mapping[str, Encoder] | None = None,
        batch: int = 80,
    ) -> None:
        self.source, self.target = source, target
        self.settings, self.score_settings = settings, score
        self.encoders, self.batch = dict(encoders or {}), batch
        self._looks: dict[Hashable, Mapping[str, Look]] = {}
        self._memory = Memory(_MOST_KEPT)

    @classmethod
    def open(
        cls,
        source: Path,
        target: Path,
        *,
        settings: ProbeSettings,
        score: ScoreSettings = ScoreSettings(),  # noqa: B008 - frozen
        encoders: Mapping[str, Encoder] | None = None,
        device: str = "cpu",
    ) -> ScoreBench:
        """Loads the folders of two bases; raises lorax.errors.Stop where that fails or they do not compare."""
        return cls(*load_pair(source, target, device=device), settings=settings, score=score, encoders=encoders)

    @property
    def draws_pictures(self) -> bool:
        """Tells whether `images` can be asked for."""
        return isinstance(self.source, PictureModel)

    def score(
        self,
        adapter: Adapter,
        candidates: Mapping[str, Adapter],
        *,
        fingerprints: Sequence[str] = (),
        examples: Sequence[str] = (),
    ) -> ScoreCard:
        """Returns figures for each candidate adapter of the target, and for `zero`, on one set of samples.

        adapter: of the source; examples: prompts that its catalogue shows it with.
        """
        tally = self.tally(adapter, candidates, examples=examples)
        return self.card(adapter, tally, fingerprints=fingerprints, examples=examples)

    def card(
        self, adapter: Adapter, tally: Tally, *, fingerprints: Sequence[str] = (), examples: Sequence[str] = ()
    ) -> ScoreCard:
        """Returns what a tally of conversions of an adapter amounts to."""
        words = self.words(adapter, examples)
        return ScoreCard(
            tally.figures(),
            self.looking(self.settings).identity(*fingerprints, *words.prompts),
            tally.margins(),
            tally.samples,
            self.source.kind,
            tuple(dict.fromkeys(words.sources)),
        )

    def looking(self, settings: ProbeSettings) -> ProbeSettings:
        """Returns settings with the noise levels that scores look at; those of methods that calibrate are their own."""
        return replace(settings, timesteps=self.score_settings.levels)

    def words(self, adapter: Adapter, examples: Sequence[str], settings: ProbeSettings | None = None) -> OwnPrompts:
        """Returns one prompt for each sample, in the adapter's own words first."""
        probe, pictures = settings or self.settings, self.draws_pictures
        return own_prompts(adapter, examples, probe, pictures=pictures, dataset=adapter.dataset_words)

    def tally(
        self,
        adapter: Adapter,
        candidates: Mapping[str, Adapter],
        *,
        examples: Sequence[str] = (),
        settings: ProbeSettings | None = None,
        views: Collection[str] = tuple(VIEWS),
    ) -> Tally:
        """Returns sums per sample of every candidate and of `zero`.

        settings: for other samples than those of the bench's own; views: what is looked at.
        """
        probe = self.looking(settings or self.settings)
        scene = self._scene(adapter, probe, examples)
        found: dict[str, dict[str, Tensor]] = {name: {} for name in (*candidates, ZERO)}
        for view in (view for view in VIEWS.values() if view.name in views):
            scorers = self._scorers(view)
            for name, look in (self._opened(view, scene) if scorers else {}).items():
                key = (name, probe.identity(), self.score_settings) if view.shared else None
                looked_at = candidates if view.rivals else _without_rivals(candidates)
                for candidate, terms in self._seen(look, scorers, adapter, looked_at, key).items():
                    suffix = name.removeprefix(view.name)
                    found[candidate] |= {f"{scorer}{suffix}": each for scorer, each in terms.items()}
        return Tally(found)

    def _scorers(self, view: View) -> list[Scorer]:
        return [each for each in SCORERS.values() if each.view == view.name and self.source.kind in each.kinds]

    def _scene(self, adapter: Adapter, probe: ProbeSettings, examples: Sequence[str]) -> Scene:
        return Scene(
            self.source,
            self.target,
            adapter,
            probe,
            words=self.words(adapter, examples, probe).prompts,
            settings=self.score_settings,
            batch=self.batch,
            encoders=self.encoders,
        )

    def _opened(self, view: View, scene: Scene) -> Mapping[str, Look]:
        """Returns the looks of a view; those that every adapter shares are opened once."""
        if not view.shared:
            return view.open(scene)
        key = (view.name, scene.probe.identity(), scene.settings)
        if key not in self._looks:
            self._looks[key] = view.open(scene)
        return self._looks[key]

    def _seen(
        self,
        look: Look,
        scorers: Sequence[Scorer],
        adapter: Adapter,
        candidates: Mapping[str, Adapter],
        key: Hashable | None,
    ) -> dict[str, dict[str, Tensor]]:
        """Returns by candidate and scorer the sums per sample (samples, k), never holding more than one batch.

        key: by which what plain bases show is remembered, None to forget it.
        """
        terms: dict[str, dict[str, list[Tensor]]] = {
            name: {scorer.name: [] for scorer in scorers} for name in (*candidates, ZERO)
        }
        for number, rows in enumerate(look.batches()):
            anchors = self._anchors(look, rows, adapter, (key, number) if key is not None else None)
            for name in terms:
                seen = anchors[TARGET] if name == ZERO else look.see(self.target, candidates[name], rows)
                for scorer in scorers:
                    terms[name][scorer.name].append(scorer.terms(anchors, seen).double().cpu())
        return {
            name: {scorer: by_sample(torch.cat(parts), look.group) for scorer, parts in own.items()}
            for name, own in terms.items()
        }

    def _anchors(self, look: Look, rows: slice, adapter: Adapter, key: tuple[Hashable, int] | None) -> Anchors:
        """Returns what the four models show in a batch, the plain bases' remembered where there is a key."""

        def plain(name: str, model: RunningModel) -> Callable[[], Tensor]:
            kept = (name, *key) if key is not None else None
            return lambda: self._memory.get(kept, lambda: look.see(model, None, rows))

        runs: dict[str, Callable[[], Tensor]] = {
            SOURCE: plain(SOURCE, self.source),
            TARGET: plain(TARGET, self.target),
            ADAPTED: lambda: look.see(self.source, adapter, rows),
        }
        given = {name: partial(torch.Tensor.clone, tensor) for name, tensor in look.given(rows).items()}
        return Anchors({**given, **runs}, self.source.geometry)

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
        if not isinstance(self.source, PictureModel) or not isinstance(self.target, PictureModel):
            raise Stop(f"a {self.source.kind} model draws no pictures")
        rows: list[tuple[str, PictureModel[Any], Adapter | None]] = [
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


def _without_rivals(candidates: Mapping[str, Adapter]) -> dict[str, Adapter]:
    return {name: adapter for name, adapter in candidates.items() if name not in RIVALS}
