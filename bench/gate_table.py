"""What the gate bench found, as tables: how well each figure ranks by the true R, and what the gate lets pass."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import quantiles
from typing import Any

import pandas as pd

from bench.conversions import WRONG
from bench.shelf import Truth
from lorax.gate import DEFAULTS, FIGURE

GOOD = 0.5
"""R from which on a conversion is worth publishing."""
RESAMPLES = 1000
TOGETHER = "all thresholds together"
Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Case(Truth):
    """One conversion: what is known of it, what was measured (value, low, high), and the verdict."""

    outcome: str
    codes: tuple[str, ...]
    samples: int
    card_kind: str
    figures: Mapping[str, Triple]
    margins: Mapping[str, Triple]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Case:
        """Rebuilds a case from `values`."""
        return cls(
            **{
                **values,
                "lift": math.nan if values["lift"] is None else values["lift"],
                "codes": tuple(values["codes"]),
                "figures": {name: _triple(found) for name, found in values["figures"].items()},
                "margins": {name: _triple(found) for name, found in values["margins"].items()},
            }
        )

    def values(self) -> dict[str, Any]:
        """Returns plain JSON values; numbers that are not finite become null, the others have four digits."""
        rounded: dict[str, Any] = _rounded(asdict(self))
        return rounded

    @property
    def good(self) -> bool:
        """Tells whether it recovers at least half of what training anew would."""
        return self.lift >= GOOD

    @property
    def cluster(self) -> tuple[str, str]:
        """Gives what its errors are shared with: the conversions of one adapter on one pair."""
        return (self.target, self.task)


def _triple(values: Sequence[float | None]) -> Triple:
    low, middle, high = (math.nan if value is None else value for value in values)
    return (low, middle, high)


def _rounded(value: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _rounded(each) for name, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, (list, tuple)) else value


def spearman(pairs: Sequence[tuple[float, float]]) -> float:
    """Returns the rank correlation of (figure, R), equal values sharing their rank."""
    frame = pd.DataFrame(pairs, columns=["figure", "lift"]).rank()
    return float(frame["figure"].corr(frame["lift"]))


def auc(pairs: Sequence[tuple[float, float]]) -> float:
    """Returns the chance that of two conversions, R on either side of GOOD, the better one has the higher figure."""
    frame = pd.DataFrame(pairs, columns=["figure", "lift"])
    good = frame["lift"] >= GOOD
    above, below = int(good.sum()), int((~good).sum())
    if not above or not below:
        return math.nan
    ranks = float(frame["figure"].rank()[good].sum())
    return (ranks - above * (above + 1) / 2) / (above * below)


def slack(case: Case) -> float:
    """Returns by how much the gate's defaults are cleared, of all thresholds the least; ends of intervals decide."""
    limits = DEFAULTS[case.card_kind]
    parts = [case.figures[FIGURE][1] - limits.divergence_gain]
    for rival, margin in (("copy", -limits.allowed_under_copy), ("random", limits.margin_over_random), ("zero", 0.0)):
        if rival in case.margins:
            parts.append(case.margins[rival][1] - margin)
    parts += [limit - case.figures[name][2] for name, limit in limits.most.items() if name in case.figures]
    return min(parts)


def bootstrap(cases: Sequence[Case], figure: Callable[[Sequence[Case]], float]) -> tuple[float, float]:
    """Returns the 95 % interval of a figure of cases, whole clusters drawn with replacement."""
    clusters: dict[tuple[str, str], list[Case]] = {}
    for case in cases:
        clusters.setdefault(case.cluster, []).append(case)
    groups, chance = list(clusters.values()), random.Random(0)
    found = []
    for _ in range(RESAMPLES):
        value = figure([case for group in chance.choices(groups, k=len(groups)) for case in group])
        if math.isfinite(value):
            found.append(value)
    cuts = quantiles(found, n=40) if len(found) > 1 else [math.nan, math.nan]
    return cuts[0], cuts[-1]


def false_publish(cases: Sequence[Case]) -> float:
    """Returns the share of what passes whose R is under GOOD; 0 where nothing passes."""
    passed = [case for case in cases if case.outcome == "pass"]
    return sum(not case.good for case in passed) / len(passed) if passed else 0.0


def rejected(cases: Sequence[Case]) -> float:
    """Returns the share of cases that do not pass, uncertain ones among them; 0 without cases."""
    return sum(case.outcome != "pass" for case in cases) / len(cases) if cases else 0.0


def worth(cases: Sequence[Case]) -> list[Case]:
    """Returns what ought to be published if all were known, wrong ones left out.

    R is at least GOOD, and no further under that of plain copy than the gate allows: else renaming the file is better.
    """
    copies = {case.cluster: case.lift for case in cases if case.label == "copy"}
    allowed = DEFAULTS["diffusion"].allowed_under_copy
    return [
        case
        for case in cases
        if case.good and case.kind != WRONG and case.lift >= copies.get(case.cluster, -math.inf) - allowed
    ]


def false_reject(cases: Sequence[Case]) -> float:
    """Returns the share of what ought to be published that does not pass."""
    return rejected(worth(cases))


def upper_bound(cases: Sequence[Case]) -> float:
    """Returns the upper end of the exact 95 % interval of no event in as many trials as pass: 1 - .025^(1/n)."""
    passed = sum(case.outcome == "pass" for case in cases)
    return 1 - 0.025 ** (1 / passed) if passed else math.nan


def ranked(cases: Sequence[Case], figure: Callable[[Case], float | None]) -> list[tuple[float, float]]:
    """Returns (figure, R) of the cases that have both."""
    pairs = [(figure(case), case.lift) for case in cases]
    return [
        (value, lift) for value, lift in pairs if value is not None and math.isfinite(value) and math.isfinite(lift)
    ]


def figure_of(name: str) -> Callable[[Case], float | None]:
    """Returns what reads a figure's value off a case, None where it has none."""
    return slack if name == TOGETHER else lambda case: case.figures[name][0] if name in case.figures else None


def kinds(cases: Iterable[Case]) -> list[str]:
    """Returns the kinds of models that occur, in order."""
    return list(dict.fromkeys(case.card_kind for case in cases))


RANKS = ("figure", "conversions", "Spearman", "95 %", "AUC of R >= .5", "95 %", "Spearman, tuned half")
GATES = (
    "pair",
    "conversions",
    "R >= .5",
    "worth it",
    "pass",
    "uncertain",
    "false publish",
    "95 %",
    "false reject",
    "95 %",
    "R >= .5, no pass",
)
WRONGS = ("made wrong", "conversions", "pass", "uncertain", "fail", "thresholds missed")


def tables(cases: Sequence[Case]) -> Iterator[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """Yields (title, columns, rows): ranks and gate for each kind of model on the fresh half, then what is wrong."""
    for kind in kinds(cases):
        own = [case for case in cases if case.card_kind == kind]
        yield f"{kind}: figures against R", RANKS, list(_ranks(own))
        yield f"{kind}: the gate", GATES, list(_gates(own))
    yield "Conversions made wrong on purpose", WRONGS, list(_wrongs(cases))


def _ranks(own: Sequence[Case]) -> Iterator[tuple[str, ...]]:
    fresh, tuned = [case for case in own if not case.tuned], [case for case in own if case.tuned]
    names = [TOGETHER, *dict.fromkeys(name for case in own for name in case.figures)]
    rows = []
    for name in names:
        value = figure_of(name)
        pairs = ranked(fresh, value)
        if len(pairs) < len(fresh) // 2 or not math.isfinite(spearman(pairs)):
            continue
        sign = -1.0 if spearman(pairs) < 0 else 1.0
        rows.append((-abs(spearman(pairs)), _rank_row(name, fresh, tuned, sign)))
    yield from (row for _, row in sorted(rows))


def _rank_row(name: str, fresh: Sequence[Case], tuned: Sequence[Case], sign: float) -> tuple[str, ...]:
    read = figure_of(name)

    def signed(case: Case) -> float | None:
        value = read(case)
        return None if value is None else sign * value

    pairs = ranked(fresh, signed)
    ranks = bootstrap(fresh, lambda some: spearman(ranked(some, signed)))
    areas = bootstrap(fresh, lambda some: auc(ranked(some, signed)))
    shown = name if sign > 0 else f"{name}, less is better"
    return (
        shown,
        str(len(pairs)),
        _number(spearman(pairs)),
        _range(ranks),
        _number(auc(pairs)),
        _range(areas),
        _number(spearman(ranked(tuned, signed))),
    )


def _gates(own: Sequence[Case]) -> Iterator[tuple[str, ...]]:
    fresh = [case for case in own if not case.tuned]
    for target in dict.fromkeys(case.target for case in fresh):
        yield _gate_row(target, [case for case in fresh if case.target == target])
    yield _gate_row("all, fresh half", fresh)
    yield _gate_row("all, tuned half", [case for case in own if case.tuned])


def _gate_row(name: str, cases: Sequence[Case]) -> tuple[str, ...]:
    outcomes = Counter(case.outcome for case in cases)
    wrong, missed = false_publish(cases), false_reject(cases)
    low, high = bootstrap(cases, false_publish)
    bound = max(high, upper_bound(cases)) if not wrong else high
    return (
        name,
        str(len(cases)),
        str(sum(case.good for case in cases)),
        str(len(worth(cases))),
        str(outcomes["pass"]),
        str(outcomes["uncertain"]),
        f"{wrong:.1%}",
        f"{low:.1%} to {bound:.1%}",
        f"{missed:.1%}",
        " to ".join(f"{end:.1%}" for end in bootstrap(cases, false_reject)),
        f"{rejected([case for case in cases if case.good and case.kind != WRONG]):.1%}",
    )


def _wrongs(cases: Sequence[Case]) -> Iterator[tuple[str, ...]]:
    wrong = [case for case in cases if case.kind == WRONG]
    for name in dict.fromkeys(_way(case) for case in wrong):
        own = [case for case in wrong if _way(case) == name]
        outcomes = Counter(case.outcome for case in own)
        codes = Counter(code for case in own for code in case.codes)
        yield (
            name,
            str(len(own)),
            *(str(outcomes[outcome]) for outcome in ("pass", "uncertain", "fail")),
            ", ".join(f"{code} {count}" for code, count in codes.most_common()),
        )


def _way(case: Case) -> str:
    return case.label.partition(", ")[2]


def _number(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}"


def _range(ends: tuple[float, float]) -> str:
    return " to ".join(map(_number, ends))
