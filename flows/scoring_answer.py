"""The answer of `lorax score`: as JSON, and as a table for people."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from flows.look import UNLIMITED
from flows.summary import console_for
from lorax.gate import FIGURE, GateSettings, Verdict, effective
from lorax.score_card import CONVERTED, ScoreCard
from lorax.scorer import Figure

STATUS = {"pass": 0, "fail": 3, "uncertain": 4}
"""Exit status by verdict; 1 is for an adapter that cannot be read, 2 for a wrong call."""
RIVALS = ("zero", "copy", "random")
_STYLES = {"pass": "bold green", "fail": "bold red", "uncertain": "bold yellow"}


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """Holds verdict and figures; the card of a conversion that could not be looked at has none.

    gate: thresholds as they were set; names: of adapter, conversion, source and target, each with its sha256.
    """

    verdict: Verdict
    card: ScoreCard
    gate: GateSettings
    names: Mapping[str, Mapping[str, str]]
    seconds: float

    @property
    def status(self) -> int:
        """Gives the exit status."""
        return STATUS[self.verdict.outcome]

    def values(self) -> dict[str, Any]:
        """Returns everything as JSON values; a number that is not finite is null."""
        card = self.card
        body = {
            "verdict": self.verdict.outcome,
            "reasons": [{"code": code, "text": text} for code, text in self.verdict.reasons],
            "figures": _plain(card.figures.get(CONVERTED, {})),
            "rivals": {name: _plain(card.figures[name]) for name in RIVALS if name in card.figures},
            "margins": _plain(card.margins),
            "samples": card.samples,
            "words": list(card.words),
            "kind": card.kind,
            "gate": thresholds(self.gate, card.kind),
            "seconds": round(self.seconds, 1),
            **self.names,
        }
        found: dict[str, Any] = _finite(body)
        return found


def thresholds(gate: GateSettings, kind: str) -> dict[str, Any]:
    """Returns the thresholds that applied, those that the settings leave open filled in by the kind of model."""
    return asdict(effective(gate, kind))


def print_json(answer: Answer) -> None:
    """Prints the answer as JSON and nothing else."""
    sys.stdout.write(json.dumps(answer.values(), indent=2, allow_nan=False) + "\n")


def print_table(answer: Answer) -> None:
    """Prints names, verdict with its reasons, and every figure with interval, threshold and rivals."""
    console = console_for(sys.stdout, plain_width=UNLIMITED)
    names = {role: found["name"] for role, found in answer.names.items()}
    outcome = answer.verdict.outcome
    parts: list[Text | Table] = [
        Text(f"{names['adapter']} -> {names['converted']}, {names['source']} -> {names['target']}"),
        Text(outcome, style=_STYLES[outcome]),
        *(Text(f"  {code}: {text}") for code, text in answer.verdict.reasons),
    ]
    if answer.card.figures:
        parts += [Text(), _table(answer), Text(_told(answer))]
    with console.capture() as text:
        for part in parts:
            console.print(part, soft_wrap=isinstance(part, Text))
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in text.get().splitlines()))


def _table(answer: Answer) -> Table:
    card = answer.card
    rivals = [name for name in RIVALS if name in card.figures]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("figure", no_wrap=True)
    for heading in ("value", "95 % interval", "wanted", *rivals):
        table.add_column(heading, justify="right", no_wrap=True)
    wanted = _wanted(answer)
    own = card.figures[CONVERTED]
    for name in sorted(own, key=lambda name: (name != FIGURE, own[name].low == own[name].high, name)):
        others = [_number(card.figures[rival].get(name)) for rival in rivals]
        table.add_row(*map(Text, (name, _number(own[name]), _interval(own[name]), wanted.get(name, ""), *others)))
    for rival, figure in card.margins.items():
        name = f"{FIGURE} over {rival}"
        table.add_row(*map(Text, (name, _number(figure), _interval(figure), wanted.get(name, ""))))
    return table


def _wanted(answer: Answer) -> dict[str, str]:
    """The thresholds in words, by the figure that they are on."""
    gate = thresholds(answer.gate, answer.card.kind)
    return {
        FIGURE: f"≥ {gate[FIGURE]:.2f}",
        f"{FIGURE} over zero": "≥ 0.00",
        f"{FIGURE} over random": f"≥ {gate['margin_over_random']:.2f}",
        f"{FIGURE} over copy": f"≥ {-gate['allowed_under_copy']:.2f}",
        **{name: f"≥ {least:.2f}" for name, least in gate["least"].items()},
        **{name: f"≤ {most:.2f}" for name, most in gate["most"].items()},
    }


def _told(answer: Answer) -> str:
    looked = f"{answer.card.samples} samples of source+adapter" if answer.card.samples else "no model was run"
    return f"{looked}, {answer.seconds:.1f} s; 1 = as on the old base, 0 = as without the adapter"


def _number(figure: Figure | None) -> str:
    # Adding zero turns -0.0 into 0.0.
    return "" if figure is None else f"{round(figure.value, 2) + 0.0:.2f}"


def _interval(figure: Figure) -> str:
    return "" if figure.low == figure.high else f"[{figure.low:.2f}, {figure.high:.2f}]"


def _plain(figures: Mapping[str, Figure]) -> dict[str, dict[str, float]]:
    return {name: asdict(figure) for name, figure in figures.items()}


def _finite(value: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
