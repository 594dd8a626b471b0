"""The command that scores a conversion which somebody has at hand: `lorax score`."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from catalogs.errors import NOT_SCORED
from flows.adapter_files import CONFIG, adapter_files, adapters_in, open_bases
from flows.scoring_answer import Answer, print_json, print_table
from flows.scoring_probe import Asked, read_asked
from lorax.adapter import Adapter
from lorax.checkpoint import Checkpoint
from lorax.errors import Refused, Stop, TryLater
from lorax.gate import GateSettings, Verdict
from lorax.load_model import load_pair
from lorax.read import AdapterFiles
from lorax.running_model import RunningModel
from lorax.score import ScoreBench
from lorax.score_card import CONVERTED, ScoreCard
from lorax.weight_file import sha256_file
from tasks.bases import why_not_runnable
from tasks.benches import open_encoder
from tasks.device import device
from tasks.scoring import gate_for
from tasks.single_score import Conversion, figures_of_weights, read_parts, rival_plans, score_conversion

Telling = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Request:
    """Says where adapter, conversion and both bases lie, and what file tells how to score."""

    adapter: Path
    converted: Path
    source: Path
    target: Path
    probe: Path | None = None


def score(request: Request, *, as_json: bool) -> int:
    """Scores a conversion, prints figures and verdict, and returns the exit status: 0 pass, 3 fail, 4 uncertain.

    A conversion that cannot be read fails with the reader's reason. Status 1 for an adapter that cannot be read, and
    for what may work another time. Raises Stop for a wrong call.
    """
    try:
        with _shown() as tell:
            answer = _answer(request, tell)
    except (Refused, TryLater) as problem:
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"lorax: {problem} ({problem.reason})", markup=False
        )
        return 1
    except OSError as problem:
        raise Stop(f"{problem.filename}: {problem.strerror or problem}") from problem
    (print_json if as_json else print_table)(answer)
    return answer.status


def _answer(request: Request, tell: Telling) -> Answer:
    """Reads what there is to read, and scores it as far as that goes."""
    began = time.monotonic()
    asked = read_asked(request.probe)
    own, other = _parts(request.adapter), _parts(request.converted)
    tell("opening the base models")
    bases = open_bases([request.source, request.target])
    gate = gate_for(asked.gate, bases[1].base)
    tell("reading the adapters")
    adapter = read_parts(own, bases[0].base)
    card, verdict = _judged(adapter, other, bases, gate, asked, tell)
    names = {
        "adapter": {"name": str(request.adapter), "sha256": _sha256(own)},
        "converted": {"name": str(request.converted), "sha256": _sha256(other)},
        "source": {"name": bases[0].base.name, "sha256": bases[0].base.fingerprint},
        "target": {"name": bases[1].base.name, "sha256": bases[1].base.fingerprint},
    }
    return Answer(verdict, card, gate, names, time.monotonic() - began)


def _judged(
    adapter: Adapter,
    files: Sequence[AdapterFiles],
    bases: Sequence[Checkpoint],
    gate: GateSettings,
    asked: Asked,
    tell: Telling,
) -> tuple[ScoreCard, Verdict]:
    """Returns figures and verdict; what cannot be read, and what cannot be run, fails with the reason."""
    try:
        converted = read_parts(files, bases[1].base)
    except Refused as problem:
        return ScoreCard({}, ""), Verdict("fail", ((problem.reason, str(problem)),))
    tell("comparing weights")
    given = Conversion(adapter, converted, bases[0], bases[1], rival_plans(bases[0], bases[1]))
    weights = figures_of_weights(given)
    tell("loading the models")
    models = _models(bases)
    if isinstance(models, str):
        return ScoreCard({CONVERTED: weights}, ""), Verdict("fail", ((NOT_SCORED, models),))
    task = asked.task(models[0].kind)
    encoders = {one.name: open_encoder(one, device()) for one in task.encoders}
    bench = ScoreBench(*models, settings=task.probe, score=task.settings, encoders=encoders)
    tell("scoring")
    return score_conversion(given, bench, gate, weights=weights)


def _models(bases: Sequence[Checkpoint]) -> tuple[RunningModel, RunningModel] | str:
    """Loads both bases; says why where one does not run, or where what they say does not compare."""
    unfit = {base.base.name: why for base in bases if (why := why_not_runnable(base))}
    if unfit:
        return "not scored: " + " and ".join(f"{name} cannot be run ({why})" for name, why in unfit.items())
    try:
        return load_pair(bases[0].folder, bases[1].folder, device=device())
    except Stop as problem:
        return f"not scored: {problem}"


def _parts(path: Path) -> list[AdapterFiles]:
    """The files of an adapter: one file, a folder as peft saves it, or a folder of such, one for each component."""
    if path.is_dir() and not (path / CONFIG).is_file():
        found = list(adapters_in(path))
        if found and all(each.config is not None and each.weights.parent.parent == path for each in found):
            return found
    return [adapter_files(path)]


def _sha256(files: Sequence[AdapterFiles]) -> str:
    """The sha256 of the weights; of several files, that over theirs in order."""
    found = [sha256_file(each.weights) if each.weights.is_file() else "" for each in files]
    return found[0] if len(found) == 1 else hashlib.sha256(" ".join(found).encode()).hexdigest()


@contextmanager
def _shown() -> Iterator[Telling]:
    """Shows on a terminal what is being done, and nothing anywhere else."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _stage: None
        return
    with console.status("reading") as status:
        yield status.update
