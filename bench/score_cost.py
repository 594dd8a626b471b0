"""What a score costs, against what sampling costs: eight pictures, or 4096 tokens, from each of the four anchors.

    OMP_NUM_THREADS=1 python bench/score_cost.py

Processor seconds for one adapter with both bases loaded: all figures of the conversion, with plain copy, random
weights and doing nothing beside it, one round of samples, at default settings. `first` is the first adapter of a pair,
for which the neutral probe is drawn; `later` every other one. Sampling is what it is held against: source,
source+adapter, target and target+conversion each draw eight pictures, in as many steps and with the guidance of the
probe, or write 4096 tokens.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench import digits, texts  # noqa: E402 - after the path
from bench.fidelity import Pair  # noqa: E402
from bench.kept import keep  # noqa: E402
from bench.subjects import Example  # noqa: E402
from lorax import __version__  # noqa: E402
from lorax.adapter import Adapter  # noqa: E402
from lorax.convert import Conversion, convert_adapters  # noqa: E402
from lorax.prepare import prepare_plan  # noqa: E402
from lorax.score import ScoreBench  # noqa: E402

RESULTS = ROOT / "bench" / "results" / "score_cost.json"
PICTURES, TOKENS = 8, 4096
COLUMNS = ("pair", "score, first, s", "score, later, s", "sampling, s", "later / sampling")


def seconds(work: Callable[[], object]) -> float:
    """Returns the processor seconds that work takes."""
    began = time.process_time()
    work()
    return time.process_time() - began


def candidates(pair: Pair, adapter: Adapter) -> dict[str, Adapter]:
    """Returns the conversion and its rivals, as a migration has them."""
    found = {}
    for label, method in (("converted", "auto"), ("copy", "copy"), ("random", "random")):
        plan = prepare_plan(pair.source, pair.target, method=method, settings={}, probe=pair.example.probe)
        (result,) = convert_adapters(plan, [adapter], target=pair.target.base)
        if isinstance(result, Conversion):
            found[label] = result.adapter
    return found


def sampling(pair: Pair, adapter: Adapter, converted: Adapter) -> float:
    """Returns the processor seconds of sampling from the four anchors."""
    probe = pair.example.score
    count = PICTURES if pair.example.name == "digits" else TOKENS // probe.length
    settings = replace(probe, samples=count)
    prompts = tuple((settings.prompts or ("",))[index % max(1, len(settings.prompts))] for index in range(count))
    total = 0.0
    for model, patch in zip((0, 0, 1, 1), (None, adapter, None, converted), strict=True):
        with pair.models[model].patched(patch):
            total += seconds(lambda: pair.models[model].samples(prompts, settings=settings, seed=1))  # noqa: B023
    return total


def row(example: Example, target: str) -> tuple[str, ...]:
    """Measures one pair."""
    pair = Pair(example, target)
    adapter = next(iter(pair.adapters.values()))
    found = candidates(pair, adapter)
    bench = ScoreBench(*pair.models, settings=example.score)
    first, later = (seconds(lambda: bench.score(adapter, found)) for _ in range(2))
    base = sampling(pair, adapter, found["converted"])
    return (target, f"{first:.1f}", f"{later:.1f}", f"{base:.1f}", f"{later / base:.2f}")


def main() -> None:
    """Measures a pair of each example and keeps what was found."""
    rows = [row(texts.example(), "text-v2"), row(digits.example(), "digits-v2")]
    made_with = {"lorax": __version__, "torch": torch.__version__, "machine": platform.machine()}
    table = {"title": "A score and sampling", "columns": COLUMNS, "rows": rows}
    keep(RESULTS, __doc__, title="The cost of a score", made_with=made_with, tables=[table])
    for each in (COLUMNS, *rows):
        print("  ".join(each))


if __name__ == "__main__":
    main()
