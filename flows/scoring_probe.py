"""What `lorax score` is to look at, from the file that --probe names: a TOML file, or prompts, one a line."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from flows.settings import EncoderTable, GateTable, ScoreTable, Table
from lorax.errors import Stop
from lorax.neutral_prompts import NEUTRAL_PROMPTS
from tasks.benches import ScoreTask

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "language": {"samples": 48, "length": 128},
    "diffusion": {"prompts": NEUTRAL_PROMPTS},
}
"""What is looked at where no file says it, by kind of model."""
_PROMPTS = ".txt"
_PATHS = ("text", "predict", "questions", "harness_tasks")


class _ProbeFile(Table):
    """The tables of a file that a score is made by."""

    score: ScoreTable
    encoders: dict[str, EncoderTable] = Field(default_factory=dict)
    gate: GateTable = GateTable()


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for: plain values of [score], empty where nothing was said of it, of [encoders] and of [gate]."""

    score: Mapping[str, Any] = field(default_factory=dict)
    encoders: Mapping[str, Any] = field(default_factory=dict)
    gate: Mapping[str, Any] = field(default_factory=dict)

    def task(self, kind: str) -> ScoreTask:
        """Returns how to score models of a kind; what is left open has the kind's default, then the table's."""
        table = ScoreTable.model_validate({**DEFAULTS.get(kind, {}), **self.score})
        return ScoreTask.of({**table.model_dump(mode="json"), "encoders": dict(self.encoders)})


def read_asked(file: Path | None) -> Asked:
    """Reads the file; without one everything is left open. Raises Stop where it cannot be used.

    TOML: a table [probe], or [score] as in the file of a migration, or their settings at the top; beside it [encoders]
    and [gate] with [gate.families]. Relative paths are relative to the file.
    """
    if file is None:
        return Asked()
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "it is no UTF-8 text"
        raise Stop(f"--probe {file}: {reason or problem}") from problem
    return _prompts(text, file) if file.suffix.lower() == _PROMPTS else _tables(text, file)


def _prompts(text: str, file: Path) -> Asked:
    lines = [line.strip() for line in text.splitlines()]
    prompts = [line for line in lines if line]
    if not prompts:
        raise Stop(f"--probe {file}: there is no prompt in it; expected is one prompt a line")
    return Asked({"prompts": prompts})


def _tables(text: str, file: Path) -> Asked:
    try:
        values = tomllib.loads(text)
        beside = {name: values.pop(name) for name in ("encoders", "gate") if name in values}
        read = _ProbeFile.model_validate({"score": values.get("probe", values.get("score", values)), **beside})
    except ValidationError as problem:
        faults = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in problem.errors())
        known = ", ".join(ScoreTable.model_fields)
        raise Stop(f"--probe {file}: {faults}. A table [probe] has {known}") from problem
    except tomllib.TOMLDecodeError as problem:
        advice = f"prompts, one a line, are read from a file whose name ends in {_PROMPTS}"
        raise Stop(f"--probe {file}: this is no TOML file ({problem}); {advice}") from problem
    return _resolved(read, file.absolute().parent)


def _resolved(read: _ProbeFile, folder: Path) -> Asked:
    score = read.score.model_dump(mode="json", exclude=set() if read.score.prompts else {"prompts"})
    score |= {name: _absolute(score[name], folder) for name in _PATHS if score[name]}
    encoders = {name: {"kind": one.kind, "path": _placed(one.path, folder)} for name, one in read.encoders.items()}
    return Asked(score, encoders, read.gate.model_dump(mode="json"))


def _placed(path: str, folder: Path) -> str:
    """Where an encoder lies: on a hub, or in a folder."""
    return path if path.startswith("hub:") else _absolute(path, folder)


def _absolute(path: str, folder: Path) -> str:
    return os.path.normpath(folder / Path(path).expanduser())
