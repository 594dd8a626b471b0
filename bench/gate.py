"""The score without truth against the true recovered lift R, and what the gate lets pass.

    OMP_NUM_THREADS=1 python bench/gate.py [--targets text-v2,digits-v2] [--again]

Every adapter of both examples that was also trained on the target is converted by every method and control, refreshed
for a short and a long time, made weaker and stronger, and made wrong on purpose (sign flipped, layers shuffled, another
adapter's weights, three times too strong, half of the sites missing, a number that is none): bench/conversions.py. Each
gets the verdict that `lorax score` gives, at default settings, and its true R from held-out samples of its task.

Thresholds were chosen on one half of the adapters; the tables are about the other half. False publish: share of what
passes whose R is under .5. Worth it: R is at least .5 and at most .05 under that of plain copy, wrong ones left out; a
conversion that renaming the file would beat is not to pass, however good. False reject: share of what is worth it that
does not pass, uncertain ones among them; the last column counts all with R of at least .5. Intervals are 95 %, by a
bootstrap over adapters and pairs, since conversions of one adapter are not independent.

Conversions and their R are kept in a folder (--work) and made once, some twenty minutes of processor time a pair;
figures and verdicts are kept in bench/results/gate.json, of which the tables in docs/benchmarks.md and the pictures in
docs/scoring.md are made by `make docs`.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench import digits, texts  # noqa: E402 - after the path
from bench.conversions import WRONG, Maker, finite  # noqa: E402
from bench.fidelity import Pair, lift  # noqa: E402
from bench.gate_picture import draw  # noqa: E402
from bench.gate_table import Case, tables  # noqa: E402
from bench.shelf import Kept, Truth, get, put  # noqa: E402
from bench.subjects import Example  # noqa: E402
from lorax import __version__  # noqa: E402
from lorax.adapter import Adapter  # noqa: E402
from lorax.base_pair import pairing  # noqa: E402
from lorax.convert import Conversion, convert_adapters  # noqa: E402
from lorax.errors import Stop  # noqa: E402
from lorax.gate import GateSettings, Verdict  # noqa: E402
from lorax.judging import Asked, judged, more  # noqa: E402
from lorax.lowering import lower_adapter  # noqa: E402
from lorax.prepare import prepare_plan  # noqa: E402
from lorax.score import ScoreBench  # noqa: E402
from lorax.score_card import CONVERTED, ScoreCard  # noqa: E402
from lorax.scorer import Figure  # noqa: E402
from lorax.tally import Tally  # noqa: E402
from lorax.weight_figures import weight_figures  # noqa: E402

RESULTS = ROOT / "bench" / "results" / "gate.json"
PICTURE = ROOT / "docs" / "pictures" / "gate.svg"
WORK = Path(tempfile.gettempdir()) / "lorax-bench-gate"
RIVALS = ("copy", "random")


def made(pair: Pair, work: Path) -> list[Kept]:
    """Returns every conversion on a pair with its true R, from the folder where they were made before."""
    file = work / f"{pair.name}.safetensors"
    if not file.exists():
        put(file, [Kept(truth, adapter) for truth, adapter in _measured(pair)])
    return get(file, pair.adapters)


def _measured(pair: Pair) -> Iterator[tuple[Truth, Adapter]]:
    maker = Maker(pair.example, (pair.source, pair.target), pair.models)
    lowered = {task: lower_adapter(adapter, pair.source.weight).adapter for task, adapter in pair.adapters.items()}
    found = maker.converted(lowered)
    for subject in pair.example.subjects:
        task, own = subject.task, torch.stack(pair.own(subject.task)).mean(0)
        for each in found[task]:
            value, error = math.nan, 0.0
            if finite(each.adapter):
                value, error = lift(pair.plain(task), pair.example.loss(pair.models[1], each.adapter, task), own)
            yield Truth(pair.name, task, subject.tuned, each.label, each.kind, value, error), each.adapter
        print(f"{pair.name} {task}: {len(found[task])} conversions", flush=True)


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """What the conversions of one pair are scored with."""

    pair: Pair
    bench: ScoreBench
    gate: GateSettings


def cases(setting: Setting, conversions: Sequence[Kept]) -> Iterator[Case]:
    """Yields figures and verdict of every conversion, as `lorax score` gives them."""
    pair = setting.pair
    matches = pairing(pair.source, pair.target)
    for task, adapter in pair.adapters.items():
        own = {kept.truth.label: kept for kept in conversions if kept.truth.task == task}
        began = time.process_time()
        exact = {
            label: weight_figures(adapter, kept.adapter, source=pair.source, target=pair.target, matches=matches)
            for label, kept in own.items()
        }
        for label, (card, verdict) in _verdicts(setting, adapter, own, exact).items():
            yield _case(own[label].truth, card, verdict)
        print(f"{pair.name} {task}: {time.process_time() - began:.0f} s for {len(own)}", flush=True)


def _verdicts(
    setting: Setting, adapter: Adapter, own: Mapping[str, Kept], exact: Mapping[str, Mapping[str, Figure]]
) -> dict[str, tuple[ScoreCard, Verdict]]:
    """Returns card and verdict by label. What conversions share, samples, anchors and rivals, is run once for all."""
    bench = setting.bench
    rivals = _rivals(setting.pair, adapter)
    labels = list(own)
    found: dict[str, tuple[ScoreCard, Verdict]] = {}
    tally: Tally | None = None
    for number in range(-1, bench.score_settings.rounds):
        asked = Asked(adapter, {**{label: own[label].adapter for label in labels}, **rivals})
        seen = bench.tally(asked.adapter, asked.candidates) if tally is None else more(bench, asked, number)
        tally = seen if tally is None else _only(tally, seen).with_more(seen)
        for label in labels:
            alone = Tally({CONVERTED: tally.sums[label]} | {name: tally.sums[name] for name in (*rivals, "zero")})
            found[label] = judged(bench, replace(asked, exact=exact[label]), alone, setting.gate)
        labels = [label for label in labels if found[label][1].outcome == "uncertain"]
        if not labels:
            break
    return found


def _only(tally: Tally, like: Tally) -> Tally:
    return Tally({name: sums for name, sums in tally.sums.items() if name in like.sums})


def _rivals(pair: Pair, adapter: Adapter) -> dict[str, Adapter]:
    lowered = lower_adapter(adapter, pair.source.weight).adapter
    found = {}
    for name in RIVALS:
        plan = prepare_plan(pair.source, pair.target, method=name, settings={}, probe=pair.example.probe)
        (result,) = convert_adapters(plan, [lowered], target=pair.target.base)
        if isinstance(result, Conversion) and result.adapter.updates:
            found[name] = result.adapter
    return found


def _case(truth: Truth, card: ScoreCard, verdict: Verdict) -> Case:
    figures = {name: (one.value, one.low, one.high) for name, one in card.figures[CONVERTED].items()}
    margins = {name: (one.value, one.low, one.high) for name, one in card.margins.items()}
    return Case(
        **asdict(truth),
        outcome=verdict.outcome,
        codes=tuple(dict.fromkeys(code for code, _ in verdict.reasons)),
        samples=card.samples,
        card_kind=card.kind,
        figures=figures,
        margins=margins,
    )


def measured(example: Example, target: str, work: Path) -> list[Case]:
    """Returns all cases of a pair. Raises Stop where one that was made wrong on purpose passes: that is a defect."""
    pair = Pair(example, target)
    bench = ScoreBench(*pair.models, settings=example.score)
    found = list(cases(Setting(pair, bench, GateSettings()), made(pair, work)))
    if wrong := [f"{case.task}, {case.label}" for case in found if case.kind == WRONG and case.outcome == "pass"]:
        print(f"{target}: WRONG BUT PASSED: {'; '.join(wrong)}", flush=True)
    return found


def stored(file: Path) -> list[Case]:
    """Returns the cases in a file."""
    body = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"cases": []}
    return [Case.of(values) for values in body["cases"]]


def store(file: Path, found: Sequence[Case]) -> None:
    """Writes the tables, which take a while to resample, and the cases, a line each."""
    made_with = {"lorax": __version__, "torch": torch.__version__, "machine": platform.machine()}
    lines = ",\n".join(json.dumps(case.values()) for case in found)
    shown = [{"title": title, "columns": columns, "rows": rows} for title, columns, rows in tables(found)]
    head = f'"made_with": {json.dumps(made_with)}, "tables": {json.dumps(shown)}'
    file.write_text(f'{{{head}, "cases": [\n{lines}\n]}}\n', encoding="utf-8")


def main() -> None:
    """Measures what is missing and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    examples = [example() for example in (texts.example, digits.example)]
    parser.add_argument("--targets", default=",".join(target for each in examples for target in each.targets))
    parser.add_argument("--again", action="store_true", help="score anew what is in the results already")
    parser.add_argument("--work", type=Path, default=WORK, help="where conversions are kept")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    chosen = parser.parse_args()
    wanted = chosen.targets.split(",")
    unknown = sorted(set(wanted) - {target for each in examples for target in each.targets})
    if unknown:
        raise Stop(f"no example has the target {', '.join(unknown)}")
    for example in examples:
        for target in (name for name in example.targets if name in wanted):
            known = stored(chosen.results)
            if chosen.again or all(case.target != target for case in known):
                found = measured(example, target, chosen.work)
                store(chosen.results, [case for case in known if case.target != target] + found)
    draw(stored(chosen.results), chosen.picture)
    console = Console(width=150)
    for title, columns, rows in tables(stored(chosen.results)):
        table = Table(*columns, title=title)
        for row in rows:
            table.add_row(*row)
        console.print(table)


if __name__ == "__main__":
    main()
