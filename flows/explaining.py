"""`lorax explain`: why an adapter was rejected, or ended otherwise, in words that a person understands."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from catalogs.explain import UNCERTAIN, Account, Ending, Judgement, account_of
from catalogs.ledger import open_reader
from catalogs.report_data import Measured
from flows.advice import advice, reason_codes
from flows.figure_words import Thresholds, brought, measured_words, percent, span
from flows.folders import Folders
from flows.look import SNAPSHOT_NOTE
from flows.settings import data_folder
from flows.states import FAILED, PASSED, PUBLISHED, QUARANTINED, REJECTED, SKIPPED, reasons
from flows.summary import STYLES, console_for

_OPENINGS: Mapping[str, str] = {
    PUBLISHED: "was published",
    PASSED: "passed the gate, but is not published",
    REJECTED: "was not published",
    SKIPPED: "was left alone",
    QUARANTINED: "was put aside as broken or hostile",
    FAILED: "could not be finished, and the next run tries it again",
}
"""How the first sentence begins, by state."""
_RIVALS: Mapping[str, tuple[str, str]] = {
    "gate-worse-than-copy": ("copy", "a plain copy of the old file comes"),
    "gate-not-better-than-random": ("random", "random numbers of the same size come"),
}
"""The candidate that a conversion was not good enough beside, and how to speak of it, by reason code."""
_OPEN: Mapping[str, str] = {
    "gate-not-better-than-nothing": "that is better than doing nothing",
    "gate-not-better-than-random": "that is clearly more than random numbers of the same size would do",
    "gate-worse-than-copy": "that is as good as a plain copy of the old file",
    "gate-figure": "it meets the threshold on another figure",
}
"""What a verdict leaves open, by the code of the threshold in doubt."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason of an outcome: its code, what the code means in general, and what was said in this case."""

    code: str
    sentence: str
    text: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """An account in words: a headline, then what there is to say under each heading."""

    account: Account
    headline: str
    measured: tuple[str, ...]
    reasons: tuple[Reason, ...]
    next_steps: tuple[str, ...]
    files: tuple[tuple[str, str], ...]
    others: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns the words and the figures that they stand for, as plain JSON values."""
        facts = dataclasses.asdict(self.account)
        return {
            "entry_key": facts.pop("entry_key"),
            "name": facts.pop("name"),
            "state": self.account.standing.state if self.account.standing else None,
            "headline": self.headline,
            "reasons": [dataclasses.asdict(reason) for reason in self.reasons],
            "measured": list(self.measured),
            "next": list(self.next_steps),
            "files": dict(self.files),
            "other_outcomes": list(self.others),
            "thresholds": dataclasses.asdict(Thresholds.of(self.account)),
            "facts": facts,
        }


def show_explanation(wanted: str, data: Path | None, *, as_json: bool) -> None:
    """Prints why an adapter ended as it did."""
    folders = Folders(data_folder(data))
    reader = open_reader(folders.data)
    explanation = explain(account_of(reader, wanted), folders)
    if as_json:
        values = {**explanation.to_json(), "is_snapshot": reader.is_snapshot}
        sys.stdout.write(json.dumps(values, indent=2, ensure_ascii=False) + "\n")
        return
    console = console_for(sys.stdout)
    print_explanation(console, explanation)
    if reader.is_snapshot:
        console.print(SNAPSHOT_NOTE, style="dim")


def explain(account: Account, folders: Folders) -> Explanation:
    """Puts an account into words."""
    return Explanation(
        account=account,
        headline=headline(account),
        measured=tuple(measured_words(account)),
        reasons=tuple(_reasons(account)),
        next_steps=advice(account),
        files=tuple(_files(account, folders)),
        others=tuple(_others(account)),
    )


def sentence_of(code: str) -> str:
    """Returns what a reason code means; empty for a code of another version."""
    return reasons().get(code, "")


def headline(account: Account) -> str:
    """Returns one sentence that says what became of an adapter, and why."""
    if account.standing is None:
        return f"{account.name} has not been settled: no run that saw it has come to an end with it."
    return f"{account.name} {_OPENINGS[account.standing.state]}: {_why(account, account.standing)}."


def _why(account: Account, standing: Ending) -> str:
    if standing.state == PASSED and account.policy:
        return "; ".join(text for _, text in account.policy)
    if account.conversion is not None and standing.state in {REJECTED, PUBLISHED, PASSED}:
        return _by_figures(account, standing) or _general(standing)
    return _general(standing)


def _general(standing: Ending) -> str:
    """Returns the sentence of the reason as the end of another one."""
    sentence = sentence_of(standing.reason).rstrip(".") or standing.text or standing.reason
    return sentence[:1].lower() + sentence[1:] if sentence[1:2].islower() or sentence[1:2] == " " else sentence


def _by_figures(account: Account, standing: Ending) -> str:
    """Says what the gate decided by in figures; empty where there is nothing to say in them."""
    gain, asked = account.figure(), Thresholds.of(account).divergence_gain
    if gain.value is None:
        return ""
    if account.judgement is not None and account.judgement.outcome == UNCERTAIN:
        return brought(account) + _doubt(account.judgement, gain, asked)
    told = _set_against(account, standing.reason, asked)
    few = standing.reason == "gate-divergence-gain" and (asked is None or gain.value < asked)
    return "" if told is None else brought(account, few=few) + told


def _doubt(judgement: Judgement, gain: Measured, asked: float | None) -> str:
    """Says what the samples leave open; the text of each reason begins with the code of the threshold in doubt."""
    codes = [text.partition(":")[0] for _, text in judgement.reasons]
    known = [_OPEN[code] for code in codes if code in _OPEN]
    if known and "gate-divergence-gain" not in codes:
        return f", but its samples do not tell whether {known[0]}"
    wanted = "" if asked is None else f", where {percent(asked)} is asked"
    return f", but its samples leave {span(gain, percent)} open{wanted}"


def _set_against(account: Account, reason: str, asked: float | None) -> str | None:
    """Says what the leading figure is held against by the threshold that decided; None for thresholds on other ones."""
    if reason == "gate-not-better-than-nothing":
        return ""
    if reason in _RIVALS:
        name, comes = _RIVALS[reason]
        other = account.figure(of=name).value
        return "" if other is None else f"; {comes} {percent(other)} of the way"
    if reason not in {"gate-divergence-gain", "gate-passed"} or asked is None:
        return None
    gain = account.figure()
    if reason != "gate-passed" and (gain.value or 0.0) >= asked:
        return f", but that may be as little as {percent(gain.low)}, where {percent(asked)} is asked"
    return f"; {percent(asked)} is asked"


def _reasons(account: Account) -> Iterator[Reason]:
    """Yields each reason once, with what was said in this case."""
    standing = account.standing
    if standing is None:
        return
    said: list[tuple[str, str]] = [(standing.reason, standing.text)]
    if account.judgement is not None and standing.state == REJECTED:
        said = [*account.judgement.reasons, *(pair for pair in said if pair[0] not in dict(account.judgement.reasons))]
    codes = reason_codes(account)
    said += [pair for pair in account.policy if pair[0] in codes and pair[0] != standing.reason]
    for code, text in dict.fromkeys(said):
        yield Reason(code, sentence_of(code), text)


def _files(account: Account, folders: Folders) -> Iterator[tuple[str, str]]:
    """Yields (what, where) of what can be looked at."""
    made = account.conversion
    if made is not None:
        for number, file in enumerate(made.files, start=1):
            yield "conversion" if len(made.files) == 1 else f"conversion, file {number}", str(folders.data / file)
        if made.image:
            yield "pictures before and after", str(folders.data / made.image)
        if made.location:
            yield "published at", made.location
    if account.report:
        yield "report", str(folders.data / account.report)


def _others(account: Account) -> Iterator[str]:
    for other in account.others:
        when, of = other.decided_at[:16], f" ({other.reason})"
        yield f"{when} {other.state}{of} in {other.migration or other.run_id}"
    for made in account.attempts:
        gain = "" if made.gain.value is None else f", {percent(made.gain.value)} of the way"
        ended = {"pass": ", passed", "fail": ", did not pass", "uncertain": ", undecided"}.get(made.outcome, "")
        yield f"conversion {made.conversion_id[:12]} by {made.method} to {made.target}{gain}{ended}"


def print_explanation(console: Console, explanation: Explanation) -> None:
    """Prints an explanation: wrapped and coloured on a terminal, one line for each thing said elsewhere."""
    account = explanation.account
    style = STYLES[account.standing.state] if account.standing else "bold"
    console.print(Text(explanation.headline, style=style), soft_wrap=not console.is_terminal)
    if account.standing is not None:
        made = account.conversion
        way = f", {made.source} to {made.target} by {made.method}" if made else ""
        _dim(console, f"{account.entry_key}, {account.standing.decided_at[:16]}, {account.standing.migration}{way}")
    _section(console, "What was measured", explanation.measured)
    _section(console, "What that means", [_worded(reason) for reason in explanation.reasons])
    _section(console, "What you can do", explanation.next_steps)
    _section(console, "Where to look", [f"{what}: {where}" for what, where in explanation.files])
    _section(console, "Other outcomes of this adapter", explanation.others)


def _worded(reason: Reason) -> str:
    said = f" ({reason.text})" if reason.text and reason.text not in reason.sentence else ""
    return f"{reason.code}: {reason.sentence}{said}"


def _section(console: Console, title: str, lines: Sequence[str]) -> None:
    if lines:
        console.print()
        console.print(Text(title, style="bold"))
    for line in lines:
        if console.is_terminal:
            console.print(Padding(Text(line), (0, 0, 0, 2)))
        else:
            console.print(Text(f"  {line}"), soft_wrap=True)


def _dim(console: Console, line: str) -> None:
    console.print(Text(line, style="dim"), soft_wrap=True)
