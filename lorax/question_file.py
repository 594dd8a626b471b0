"""A file of questions: one prompt a line, or one JSON object a line with a prompt and, if known, its answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorax.errors import Stop

_SHOWN = 60
"""Letters of a line that a message quotes."""
_FORM = '{"prompt": "...", "answer": "..."}, the answer if it is known'


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, and its answer where the file gives one; line: where it stands, counted from 1."""

    prompt: str
    answer: str | None
    line: int


def read_questions(file: Path) -> tuple[Question, ...]:
    """Returns the questions of a file of UTF-8, in its order; lines without any letter are passed over.

    A file whose first line opens with a brace holds JSON on every line, any other one prompts as they stand. Raises
    Stop, naming the line, for anything else, and for a file that cannot be read or holds no question.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as problem:
        advice = "expected is a file of UTF-8 with one question a line"
        raise Stop(f"{file}: cannot be read ({problem}); {advice}") from problem
    found = tuple(_questions(file, [(number, line.rstrip("\r")) for number, line in enumerate(lines, start=1)]))
    if not found:
        raise Stop(f"{file}: holds no question; expected is one prompt a line, or {_FORM} a line")
    return found


def _questions(file: Path, lines: list[tuple[int, str]]) -> Iterator[Question]:
    written = [(number, line) for number, line in lines if line.strip()]
    structured = bool(written) and written[0][1].lstrip().startswith("{")
    for number, line in written:
        yield _from_json(f"{file}, line {number}", line, number) if structured else Question(line, None, number)


def _from_json(where: str, line: str, number: int) -> Question:
    quoted = line if len(line) <= _SHOWN else line[:_SHOWN] + "…"
    try:
        body: Any = json.loads(line)
    except ValueError as problem:
        raise Stop(f"{where}: {quoted!r} is not JSON ({problem}); expected, as on the first line, is {_FORM}") from None
    if not isinstance(body, dict):
        raise Stop(f"{where}: {quoted!r} is no object; expected is {_FORM}")
    if unknown := sorted(set(body) - {"prompt", "answer"}):
        raise Stop(f"{where}: there is {', '.join(map(repr, unknown))}; expected is nothing but {_FORM}")
    prompt, answer = body.get("prompt"), body.get("answer")
    if not isinstance(prompt, str) or not prompt:
        raise Stop(f"{where}: the prompt is {prompt!r}; expected is a text that is not empty")
    if answer is not None and (not isinstance(answer, str) or not answer.strip() or "\n" in answer.strip()):
        raise Stop(f"{where}: the answer is {answer!r}; expected is a text of one line, as answers end with their line")
    return Question(prompt, answer, number)
