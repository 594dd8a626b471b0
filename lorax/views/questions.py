"""questions: what the models answer to the questions of a file of the user's."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from lorax.adapter import Adapter
from lorax.answers import ANSWERS, answers, one_line
from lorax.errors import Stop
from lorax.language_model import LanguageModel
from lorax.probe import slices
from lorax.probe_look import texts_at_once
from lorax.question_file import Question, read_questions
from lorax.running_model import RunningModel
from lorax.view import Look, Scene, View

LONGEST = 32
"""Tokens of an answer; more where an answer that the file gives is longer."""
_DIGITS = 24
"""Binary digits that float32 holds of a whole number."""


class AnswerLook(Look):
    """Answers (rows, 2), a question a row, as two numbers each that are equal for answers of equal words only."""

    def __init__(self, file: Path, model: LanguageModel, scene: Scene) -> None:
        questions = read_questions(file)
        known = (question.answer for question in questions if question.answer is not None)
        self._most = max([LONGEST, *(len(model.tokenizer(" " + answer).input_ids) + 1 for answer in known)])
        room = min(_context(scene.source), _context(scene.target)) - self._most
        pairs = [(question, _start(file, question, model, room=room)) for question in questions]
        pairs.sort(key=lambda pair: len(pair[1]))  # starts of about equal length are run at once
        self._questions, self._starts = zip(*pairs, strict=True)
        self.group = torch.arange(len(pairs))
        self._batches = slices(len(pairs), texts_at_once(scene, length=len(self._starts[-1])))

    def batches(self) -> Sequence[slice]:
        """Returns slices of the questions, the short ones first."""
        return self._batches

    def see(self, model: RunningModel, adapter: Adapter | None, rows: slice) -> Tensor:
        """Returns the answers of a model."""
        with model.patched(adapter):
            found = answers(cast("LanguageModel", model), self._starts[rows], most=self._most)
        return torch.tensor([_numbers(answer) for answer in found])

    def given(self, rows: slice) -> Mapping[str, Tensor]:
        """Returns the answers that the file gives, seen as `see` sees a model's, -1 where it gives none."""
        known = [question.answer for question in self._questions[rows]]
        return {ANSWERS: torch.tensor([(-1.0, -1.0) if each is None else _numbers(one_line(each)) for each in known])}


def look(scene: Scene) -> Mapping[str, Look]:
    """Opens the file, where the settings name one and the models write text; raises Stop where it does not serve."""
    if not scene.settings.questions or not isinstance(scene.source, LanguageModel):
        return {}
    return {VIEW.name: AnswerLook(Path(scene.settings.questions), scene.source, scene)}


def _start(file: Path, question: Question, model: LanguageModel, *, room: int) -> list[int]:
    """Returns the tokens of a prompt. Raises Stop where there are none, or more than `room`."""
    tokens: list[int] = model.tokenizer(question.prompt, verbose=False).input_ids
    if not 0 < len(tokens) <= room:
        where = f"{file}, line {question.line}"
        raise Stop(
            f"{where}: the prompt has {len(tokens)} tokens; expected are 1 to {room}, so that an answer has room"
        )
    return tokens


def _context(model: RunningModel) -> int:
    """Returns how many tokens a language model can look back on; many where its configuration does not say."""
    settings = cast("LanguageModel", model).model.config.get_text_config()
    return int(getattr(settings, "max_position_embeddings", None) or 1 << 20)


def _numbers(answer: str) -> tuple[float, float]:
    """Returns two whole numbers that name an answer: equal answers have equal ones, others in one case of 2^48."""
    digest = int.from_bytes(hashlib.sha256(answer.encode("utf-8", "surrogatepass")).digest()[:6], "big")
    return float(digest >> _DIGITS), float(digest & (1 << _DIGITS) - 1)


VIEW = View("questions", "greedy answers to the questions of the file `questions`", shared=True, open=look, once=True)
