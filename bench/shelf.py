"""Keeps made conversions and their true R in files, so that scores can be measured again without making them again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from lorax.adapter import Adapter, LowRank, Site


@dataclass(frozen=True, slots=True)
class Truth:
    """What is known of a conversion besides its bytes.

    lift: the true R, NaN where the conversion has no numbers to be run with; error: its standard error over held-out
    samples. label, kind: as in bench.conversions; tuned: whether thresholds may be chosen on it.
    """

    target: str
    task: str
    tuned: bool
    label: str
    kind: str
    lift: float
    error: float


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """A conversion with what is known of it."""

    truth: Truth
    adapter: Adapter


def put(file: Path, conversions: Sequence[Kept]) -> None:
    """Writes conversions, all of low-rank updates; their metadata is not kept."""
    tensors, facts = {}, []
    for number, kept in enumerate(conversions):
        sites = {}
        for site, update in kept.adapter.low_rank().items():
            name = f"{number}|{site}"
            tensors[f"{name}|up"] = update.up.contiguous().clone()
            tensors[f"{name}|down"] = update.down.contiguous().clone()
            sites[str(site)] = [update.scale, update.kernel]
        facts.append({"truth": asdict(kept.truth), "sites": sites})
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file, metadata={"facts": json.dumps(facts)})


def get(file: Path, likeness: Mapping[str, Adapter]) -> list[Kept]:
    """Reads conversions back. likeness: an adapter by task, of which all but the updates is taken over."""
    found = []
    with safe_open(file, framework="pt") as opened:
        for number, fact in enumerate(json.loads(opened.metadata()["facts"])):
            truth = Truth(**fact["truth"])
            updates = {
                Site.parse(site): LowRank(
                    opened.get_tensor(f"{number}|{site}|up"),
                    opened.get_tensor(f"{number}|{site}|down"),
                    scale,
                    tuple(kernel) if kernel else None,
                )
                for site, (scale, kernel) in fact["sites"].items()
            }
            found.append(Kept(truth, replace(likeness[truth.task], updates=updates, vectors={})))
    return found
