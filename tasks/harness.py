"""Tasks of EleutherAI's lm-evaluation-harness as figures: an optional judge of language models, when it is installed.

Each of the four models answers a task as the harness asks it to, adapters patched in; the harness finds its own data.
https://github.com/EleutherAI/lm-evaluation-harness, written against 0.4.13.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch

from lorax.adapter import Adapter
from lorax.errors import Stop
from lorax.language_model import LanguageModel
from lorax.running_model import RunningModel
from lorax.score import ZERO, ScoreBench
from lorax.score_card import ScoreCard
from lorax.scorer import ADAPTED, SOURCE, Figure

PREFIX = "harness:"
_QUANTILE = 1.96
"""Standard errors to the ends of a 95 % interval."""
_one_at_a_time = threading.Lock()
"""The harness seeds the generators of the whole process."""
_RESAMPLES = 1000
"""Of the harness's own bootstrap, for metrics whose standard error is not computed."""


@dataclass(frozen=True, slots=True)
class HarnessSettings:
    """What is asked.

    tasks: names that the harness knows, `hellaswag`, or with one of a task's metrics, `hellaswag:acc_norm`; without,
    its first. folder: of further task files, "" for none; they can name code that is run. limit: documents of each task
    that are used, from its first on, 0 for all; batch: requests that are run at once.
    """

    tasks: tuple[str, ...]
    folder: str = ""
    limit: int = 0
    batch: int = 8


class Harness:
    """The harness, set to its tasks, over the two loaded bases of a pair."""

    def __init__(self, source: RunningModel, target: RunningModel, settings: HarnessSettings) -> None:
        """Raises Stop for models that write no text, where the harness is missing, and for tasks it does not know."""
        if not isinstance(source, LanguageModel) or not isinstance(target, LanguageModel):
            raise Stop(f"a {source.kind} model answers no task of lm-evaluation-harness; leave `harness` out")
        self._source, self._target, self.settings = source, target, settings
        if settings.folder and not Path(settings.folder).is_dir():
            raise Stop(f"`harness_tasks`: there is no folder {settings.folder}; expected is one of task files")
        self._harness = _module("lm_eval")
        self._manager = _module("lm_eval.tasks").TaskManager(include_path=settings.folder or None)
        self._names = sorted({task.partition(":")[0] for task in settings.tasks})
        self._require_known()

    @cached_property
    def plain(self) -> Mapping[str, Mapping[str, Figure]]:
        """Gives the figures of the two bases, `source` and `zero`: no adapter has a part in them, they are kept."""
        return {SOURCE: self._asked(self._source, None), ZERO: self._asked(self._target, None)}

    def figures(self, adapter: Adapter, candidates: Mapping[str, Adapter]) -> dict[str, dict[str, Figure]]:
        """Returns figures `harness:<task>`, as the task measures them, of each candidate in the target and of `zero`.

        Beside them, to compare with, stand those of `source` and `source+adapter`. Intervals are 1.96 of the harness's
        standard errors to each side, without width where it has none. Raises Stop where a task cannot be run.
        """
        found = {name: dict(figures) for name, figures in self.plain.items()}
        found[ADAPTED] = self._asked(self._source, adapter)
        return found | {name: self._asked(self._target, candidate) for name, candidate in candidates.items()}

    @torch.no_grad()
    def _asked(self, model: LanguageModel, adapter: Adapter | None) -> dict[str, Figure]:
        wrapper = _module("lm_eval.models.huggingface").HFLM
        with _one_at_a_time, model.patched(adapter):
            asked = wrapper(pretrained=model.model, tokenizer=model.tokenizer, batch_size=self.settings.batch)
            try:
                answer: Mapping[str, Any] = self._harness.simple_evaluate(
                    model=asked,
                    tasks=self._names,
                    limit=self.settings.limit or None,
                    bootstrap_iters=_RESAMPLES,
                    log_samples=False,
                    task_manager=self._manager,
                )
            except (OSError, ValueError) as problem:
                raise Stop(
                    f"lm-evaluation-harness cannot run {', '.join(self._names)}: {problem}. It fetches the data of its "
                    "tasks from the Hugging Face hub: see that they can be fetched or are there already, or leave "
                    "the task out of `harness`"
                ) from problem
        results: Mapping[str, Mapping[str, Any]] = answer["results"]
        return {PREFIX + task: _figure(task, results) for task in self.settings.tasks}

    def _require_known(self) -> None:
        known = list(self._manager.all_tasks)
        for name in self._names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                meant = f"; did you mean {near[0]!r}?" if near else ""
                raise Stop(
                    f"`harness`: lm-evaluation-harness knows no task {name!r}{meant} `lm-eval ls tasks` lists them; "
                    f"files of your own tasks go into the folder `harness_tasks` (now {self.settings.folder!r})"
                )


_of_benches: WeakKeyDictionary[ScoreBench, Harness] = WeakKeyDictionary()


def harness_figures(
    bench: ScoreBench, adapter: Adapter, candidates: Mapping[str, Adapter]
) -> Mapping[str, Mapping[str, Figure]]:
    """Returns the figures of the tasks that a bench's settings ask for, as `Harness.figures`.

    There are none where they ask for none, or where the bases write no text. What the bases reach without an adapter is
    kept for the next conversion of the bench.
    """
    chosen = bench.score_settings
    if not chosen.harness or not isinstance(bench.source, LanguageModel):
        return {}
    settings = HarnessSettings(chosen.harness, chosen.harness_tasks, chosen.harness_limit)
    harness = _of_benches.get(bench)
    if harness is None or harness.settings != settings:
        harness = _of_benches[bench] = Harness(bench.source, bench.target, settings)
    return harness.figures(adapter, candidates)


def with_harness(card: ScoreCard, found: Mapping[str, Mapping[str, Figure]]) -> ScoreCard:
    """Returns a card with the harness's figures beside its own; those of models that the card lacks stay outside."""
    figures = {name: {**own, **found.get(name, {})} for name, own in card.figures.items()}
    return dataclasses.replace(card, figures=figures)


def _module(name: str) -> Any:  # noqa: ANN401 - optional, so that nothing is known of it before it is imported
    """Returns a module of the harness. Raises Stop, saying what to install, where it or something it needs is not."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as missing:
        raise Stop(
            f"`harness` asks for tasks of lm-evaluation-harness, but {missing.name} is not installed: "
            'pip install "lm-eval[hf]", or leave `harness` out'
        ) from missing


def _figure(task: str, results: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Returns one metric of a task, which the results name by metric and filter, `acc_norm,none`."""
    name, _, metric = task.partition(":")
    if name not in results:
        raise Stop(
            f"`harness`: {name!r} stands for several tasks, {', '.join(sorted(results))}; name the ones you want"
        )
    found = results[name]
    keys = [key for key in found if "," in key and not key.partition(",")[0].endswith("_stderr")]
    fitting = [key for key in keys if not metric or metric in (key, key.partition(",")[0])]
    if not fitting:
        raise Stop(f"`harness`: task {name!r} has no metric {metric!r}; it has {', '.join(keys) or 'none'}")
    value = float(found[fitting[0]])
    measured, _, filtered = fitting[0].partition(",")
    error = found.get(f"{measured}_stderr,{filtered}")
    spread = _QUANTILE * error if isinstance(error, float) and math.isfinite(error) else 0.0
    return Figure(value, value - spread, value + spread)
