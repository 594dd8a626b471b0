"""What a migration leaves in a ledger whose gate turns adapters down for every reason that it has, or doubts them."""

from __future__ import annotations

from collections.abc import Mapping

from catalogs.entry import CatalogEntry
from tests.stand_ins.ledger_story import BROKEN, LOCKED, Fact, converted, entry, outcome, read, seen, started, stored
from tests.stand_ins.ledger_story import conversion_id as id_of

GATE: Mapping[str, object] = {
    "divergence_gain": 0.4,
    "margin_over_random": 0.1,
    "allowed_under_copy": 0.05,
    "least": {},
    "most": {"drift": 0.3},
}
WEAK = entry("weak")
DOUBTED = entry("doubted")
COPIED = entry("copied")
HARMFUL = entry("harmful")
WILD = entry("wild")
UNSCORED = entry("unscored")
WAITING = entry("waiting")

Figure = dict[str, float | None]


def figure(value: float, spread: float = 0.05) -> Figure:
    """Returns a figure with its interval."""
    return {"value": value, "low": value - spread, "high": value + spread}


def scored(one: CatalogEntry, gain: Figure, *, copied: float = 0.2, drift: float = 0.1, name: str = "") -> Fact:
    """The conversion is measured, its rivals on the same samples."""
    own = gain["value"] or 0.0
    body = {
        "probe_id": "p",
        "figures": {
            "converted": {"divergence_gain": gain, "drift": figure(drift, 0.01), "clip_likeness": figure(0.8)},
            "copy": {"divergence_gain": figure(copied)},
            "random": {"divergence_gain": figure(-0.2)},
            "zero": {"divergence_gain": figure(0.0, 0.0)},
        },
        "margins": {"copy": figure(own - copied, 0.02), "random": figure(own + 0.2, 0.02), "zero": gain},
        "samples": 16,
        "kind": "diffusion",
        "words": ["catalogue", "neutral"],
        "images": "images/x.png",
    }
    return ("scored", name or id_of(one), body)


def judged(one: CatalogEntry, said: str, code: str, text: str, *, gate: Mapping[str, object] = GATE) -> Fact:
    """The gate speaks, with one of its three outcomes."""
    body = {"passed": said == "pass", "outcome": said, "reasons": [[code, text]], "gate": dict(gate)}
    return ("judged", id_of(one), body)


def rejected(one: CatalogEntry, gain: Figure, code: str, *, said: str = "fail", **figures: float) -> list[Fact]:
    """Returns the whole way of an adapter that the gate does not let through."""
    text = f"what {code} says of {one.name}"
    facts = [seen(one), stored(one), read(one), converted(one), scored(one, gain, **figures)]  # type: ignore[arg-type]
    return [*facts, judged(one, said, code, text), outcome(one, "rejected", code, text, with_conversion=True)]


def gate_story() -> list[Fact]:
    """Returns a run of which nothing is published, and in which one adapter was seen and never settled."""
    facts = [started("run-1"), seen(WAITING), seen(LOCKED), seen(BROKEN), seen(UNSCORED), converted(UNSCORED)]
    facts += rejected(WEAK, figure(0.31), "gate-divergence-gain")
    facts += rejected(DOUBTED, figure(0.38), "gate-uncertain", said="uncertain")
    facts += rejected(COPIED, figure(0.6), "gate-worse-than-copy", copied=0.8)
    facts += rejected(HARMFUL, figure(-0.12), "gate-not-better-than-nothing")
    facts += rejected(WILD, {"value": None, "low": None, "high": None}, "gate-non-finite")
    facts += [
        outcome(LOCKED, "skipped", "no-derivatives", "its sidecar says that derivatives are not allowed"),
        outcome(BROKEN, "quarantined", "truncated", "the header claims 4096 bytes, the file has 100"),
        outcome(UNSCORED, "rejected", "not-scored", "converted by copy, not scored", with_conversion=True),
        ("run_finished", "run-1", {"states": {}, "report": "reports/1.html"}),
    ]
    return facts
