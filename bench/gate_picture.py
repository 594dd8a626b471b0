"""The picture of the gate's calibration: score against true R, and how often a conversion of a given score is good."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from bench.gate_table import GOOD, Case, kinds
from lorax.gate import DEFAULTS, FIGURE

_COLOURS = {"pass": "#1d6a55", "uncertain": "#d9a05b", "fail": "#b5502f"}
_LOWEST = -1.5
"""Figures below are drawn at the edge: how much harm is done is of no interest here."""
_NAMES = {"language": "texts", "diffusion": "pictures"}
_BIN = 0.1
_SIZE = 300
_AXIS = alt.Axis(tickCount=6, grid=True)
_STEPS = alt.Scale(domain=[-0.5, 1.05], nice=False)


def draw(cases: Sequence[Case], file: Path) -> None:
    """Writes the picture as SVG: a row for each kind of model, of the conversions that no threshold was chosen on."""
    fresh = [case for case in cases if not case.tuned and math.isfinite(case.lift)]
    rows = [_scatter(fresh, kind) | _reliability(fresh, kind) for kind in kinds(fresh)]
    chart = alt.vconcat(*rows).configure_view(stroke="#cccccc").configure(background="white")
    file.write_text(vl_convert.vegalite_to_svg(chart.to_dict(validate=False)), encoding="utf-8")


def _scatter(cases: Sequence[Case], kind: str) -> Any:  # noqa: ANN401 - altair's own types are private
    points = [
        {"score": round(max(case.figures[FIGURE][0], _LOWEST), 3), "R": round(max(case.lift, _LOWEST), 3)}
        | {"verdict": case.outcome}
        for case in cases
        if case.card_kind == kind
    ]
    scale = alt.Scale(domain=[_LOWEST, 1.05], nice=False)
    dots = (
        alt.Chart(alt.Data(values=points))
        .mark_circle(size=26, opacity=0.65)
        .encode(
            x=alt.X("score:Q", title="divergence gain, measured without any truth", scale=scale, axis=_AXIS),
            y=alt.Y("R:Q", title="true recovered lift R", scale=scale, axis=_AXIS),
            color=alt.Color(
                "verdict:N", scale=alt.Scale(domain=list(_COLOURS), range=list(_COLOURS.values())), title="verdict"
            ),
        )
    )
    threshold = DEFAULTS[kind].divergence_gain
    return (dots + _line("x", threshold) + _line("y", GOOD)).properties(
        width=_SIZE, height=_SIZE, title=f"{_NAMES[kind]}: {len(points)} conversions"
    )


def _line(axis: str, value: float) -> Any:  # noqa: ANN401
    chart = alt.Chart(alt.Data(values=[{"at": value}])).mark_rule(strokeDash=[4, 4], color="#555555")
    return chart.encode(**{axis: alt.X("at:Q") if axis == "x" else alt.Y("at:Q")})


def _reliability(cases: Sequence[Case], kind: str) -> Any:  # noqa: ANN401
    bins = list(binned([case for case in cases if case.card_kind == kind]))
    base = alt.Chart(alt.Data(values=bins)).encode(
        x=alt.X("score:Q", title="divergence gain, in steps of .1", scale=_STEPS, axis=_AXIS)
    )
    share = alt.Y("share:Q", title="share with R of at least .5", scale=alt.Scale(domain=[0, 1]))
    curve = base.mark_line(point=alt.OverlayMarkDef(color="#1d6a55"), color="#1d6a55").encode(y=share)
    whiskers = base.mark_rule(color="#1d6a55").encode(y=alt.Y("low:Q"), y2="high:Q")
    return (whiskers + curve + _line("x", DEFAULTS[kind].divergence_gain)).properties(
        width=_SIZE, height=_SIZE, title="how often such a conversion is good"
    )


def binned(cases: Sequence[Case]) -> Iterator[dict[str, float]]:
    """Yields for every step of the score the share of good conversions, with Wilson's 95 % interval."""
    steps: dict[int, list[bool]] = {}
    for case in cases:
        steps.setdefault(max(math.floor(case.figures[FIGURE][0] / _BIN), -5), []).append(case.good)
    for step, found in sorted(steps.items()):
        low, high = wilson(sum(found), len(found))
        share = sum(found) / len(found)
        yield {"score": round((step + 0.5) * _BIN, 3), "share": round(share, 4), "low": low, "high": high}


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """Returns Wilson's 95 % interval of a share (J. Am. Stat. Assoc. 22, 1927)."""
    z, share = 1.96, hits / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return round(max(0.0, middle - half), 4), round(min(1.0, middle + half), 4)
