"""The charts of a report as inline SVG: drawn once here, without any script, font or address to load later.

Colours are CSS variables of the page, so that charts follow its light and its dark look. Each mark carries its own
words (`aria-label`), which screen readers speak and the page shows on hovering.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

import altair as alt
import vl_convert

from catalogs.report_data import AdapterRow, Measured, PairSimilarity

LOWEST_DRAWN: Final = -1.0
MOST_BARS: Final = 60
WIDE: Final = 660
NARROW: Final = 230
"""Widths of the plotting area for a desk and for a phone; the page shows the one that fits."""
GOOD_STATES: Final = ("published", "passed")
COMPARED: Final = {"copy": "plain copy", "random": "random"}
CHARACTER_PIXELS: Final = 7.6
LONGEST_LABEL: Final = 24
ALIKE: Final = {"weights": "weights", "left": "outputs", "right": "inputs"}
MARK_PIXELS: Final = 22
RAMP: Final = ["#b5502f", "#d9a05b", "#e8dcc0", "#7fae96", "#1d6a55"]
BLOCKS: Final = re.compile(r"(?P<kind>down|mid|up)_blocks?(?:\.(?P<number>\d+))?")


def distribution_chart(adapters: Sequence[AdapterRow], threshold: float | None, *, width: int = WIDE) -> str:
    """Returns the spread of the divergence gain: one dot per adapter, conversions above what they are compared with."""
    scored = [row for row in adapters if row.figure("converted").value is not None]
    points = [
        _point(row, candidate, label, jitter=(number * 0.618) % 1)
        for candidate, label in {"converted": "converted", **COMPARED}.items()
        for number, row in enumerate(scored)
        if row.figure(candidate).value is not None
    ]
    if not points:
        return ""
    lanes = [lane for lane in ("converted", *COMPARED.values()) if any(point["lane"] == lane for point in points)]
    dots = (
        _chart(points)
        .mark_circle(size=90, opacity=0.8)
        .encode(
            x=_gain_axis(points),
            y=alt.Y("lane:N", sort=lanes, title=None, axis=_labels(lanes)),
            yOffset=alt.YOffset("jitter:Q", scale=alt.Scale(domain=[-0.4, 1.4])),
            color=_state_colour(),
            description="words:N",
        )
    )
    layers = [*_zero_line(points), dots, *_gate_line(threshold)]
    return _svg(layers, height=64 * len(lanes), prefix=f"spread{width}", width=width)


def comparison_chart(adapters: Sequence[AdapterRow], threshold: float | None, *, width: int = WIDE) -> str:
    """Returns each adapter's divergence gain with its interval, copy and random beside it, best first."""
    scored = [row for row in adapters if row.figure("converted").value is not None]
    best = sorted(scored, key=lambda row: -(row.figure("converted").value or 0.0))[:MOST_BARS]
    if not best:
        return ""
    names = _distinct_names(best)
    points = [
        {**_point(row, candidate, label, jitter=0.0), "name": names[row.entry_id]}
        for row in best
        for candidate, label in {"converted": "converted", **COMPARED}.items()
        if row.figure(candidate).value is not None
    ]
    order = list(names.values())
    y = alt.Y("name:N", sort=order, title=None, axis=_labels(order))
    own = _chart([point for point in points if point["lane"] == "converted"])
    others = _chart([point for point in points if point["lane"] != "converted"])
    layers = [
        *_zero_line(points),
        others.mark_point(size=42, filled=False, strokeWidth=1.6, color="var(--quiet)").encode(
            x=_gain_axis(points),
            y=y,
            shape=alt.Shape(
                "lane:N",
                scale=alt.Scale(domain=["plain copy", "random"], range=["diamond", "cross"]),
                legend=alt.Legend(title=None, orient="top", symbolStrokeColor="var(--quiet)"),
            ),
            description="words:N",
        ),
        own.mark_rule(strokeWidth=3, opacity=0.45, strokeCap="round").encode(
            x="low:Q", x2="high:Q", y=y, color=_state_colour()
        ),
        own.mark_circle(size=95, opacity=1).encode(x="value:Q", y=y, color=_state_colour(), description="words:N"),
        *_gate_line(threshold),
    ]
    return _svg(layers, height=24 * len(best), prefix=f"each{width}", width=width)


def similarity_chart(pair: PairSimilarity, *, prefix: str, width: int = WIDE) -> str:
    """Returns a heat strip of how alike two bases are: one column per site in the order of the network."""
    if not pair.sites:
        return ""
    sites = sorted(pair.sites, key=lambda site: (_depth(_group(site.site)), _group(site.site)))
    groups = [_group(site.site) for site in sites]
    cells = []
    for index, site in enumerate(sites):
        alike = {"weights": 1 - site.weight_distance, "left": site.left, "right": site.right}
        for measure, label in ALIKE.items():
            value = min(1.0, max(0.0, alike[measure]))
            words = f"{site.site}: {label} {value:.2f} alike"
            cells.append({"index": index, "end": index + 1, "measure": label, "alike": value, "words": words})
    site_width = min(18, max(2, width / len(sites)))
    marks = _block_marks(groups, least=MARK_PIXELS / site_width)
    drawn_width = int(site_width * len(sites))
    x_scale = alt.Scale(domain=[0, len(sites)], nice=False, zero=False)
    strip = (
        _chart(cells)
        .mark_rect(stroke=None)
        .encode(
            x=alt.X("index:Q", scale=x_scale, axis=None),
            x2="end:Q",
            y=alt.Y("measure:N", sort=list(ALIKE.values()), title=None, axis=_labels([*ALIKE.values()])),
            color=alt.Color(
                "alike:Q",
                scale=alt.Scale(domain=[0, 1], range=RAMP),
                legend=alt.Legend(
                    title="alike", orient="bottom", gradientLength=180, gradientThickness=9, values=[0, 0.5, 1]
                ),
            ),
            description="words:N",
        )
    )
    beginnings = _chart(marks)
    layers = [
        strip,
        beginnings.mark_rule(color="var(--paper)", strokeWidth=2).encode(x=alt.X("index:Q", axis=None)),
        beginnings.mark_text(
            align="left", baseline="bottom", angle=325, dx=3, dy=-5, fontSize=11, color="currentColor"
        ).encode(x=alt.X("index:Q", axis=None), y=alt.value(0), text="group:N"),
    ]
    return _svg(layers, height=26 * len(ALIKE), prefix=f"{prefix}-{width}", width=drawn_width)


def _point(row: AdapterRow, candidate: str, lane: str, *, jitter: float) -> dict[str, object]:
    measured = row.figure(candidate)
    return {
        "name": row.name,
        "lane": lane,
        "value": _drawn(measured.value),
        "low": _drawn(measured.value if measured.low is None else measured.low),
        "high": _drawn(measured.value if measured.high is None else measured.high),
        "state": row.state if candidate == "converted" else "compared",
        "jitter": jitter,
        "words": f"{row.name}, {lane}: {in_words(measured)}",
    }


def in_words(measured: Measured) -> str:
    """Returns a figure with its interval, as people write it."""
    if measured.value is None:
        return "–"
    interval = f" ({measured.low:.2f} to {measured.high:.2f})" if None not in (measured.low, measured.high) else ""
    return f"{measured.value:.2f}{interval}"


def _drawn(value: float | None) -> float:
    return max(LOWEST_DRAWN, min(1.0, value or 0.0))


def _gain_axis(points: Sequence[dict[str, object]]) -> alt.X:
    lowest = min(float(str(point["low"])) for point in points)
    return alt.X(
        "value:Q",
        title="divergence gain",
        scale=alt.Scale(domain=[min(-0.1, lowest - 0.05), 1.02], nice=False),
        axis=alt.Axis(tickCount=5, format=".1f"),
    )


def _state_colour() -> alt.Color:
    states = [*GOOD_STATES, "rejected", "compared"]
    colours = ["var(--good)", "var(--good)", "var(--warn)", "var(--quiet)"]
    return alt.Color("state:N", scale=alt.Scale(domain=states, range=colours), legend=None)


def _labels(names: Sequence[str]) -> alt.Axis:
    """Returns an axis with room for its labels in whatever type face the page has in the end."""
    longest = min(LONGEST_LABEL, max(len(name) for name in names))
    room = longest * CHARACTER_PIXELS
    return alt.Axis(labelPadding=10, labelLimit=room, minExtent=room)


def _zero_line(points: Sequence[Mapping[str, object]]) -> list[alt.Chart]:
    """Returns the line where a conversion is worth as much as no adapter at all, if the drawing reaches it."""
    lowest = min(float(str(point["low"])) for point in points)
    nothing = _chart([{"zero": 0, "words": "no adapter" if lowest < -0.3 else ""}])
    return [
        nothing.mark_rule(color="var(--quiet)", strokeWidth=1.2).encode(x="zero:Q"),
        nothing.mark_text(align="right", baseline="bottom", dx=-5, dy=-3, fontSize=12, color="var(--soft)").encode(
            x="zero:Q", y=alt.value(0), text="words:N"
        ),
    ]


def _gate_line(threshold: float | None) -> list[alt.Chart]:
    if threshold is None:
        return []
    gate = _chart([{"gate": threshold, "words": f"gate {threshold:g}"}])
    return [
        gate.mark_rule(color="var(--ink)", strokeDash=[5, 4], strokeWidth=1.4).encode(
            x="gate:Q", description="words:N"
        ),
        gate.mark_text(
            align="left", baseline="bottom", dx=5, dy=-3, fontSize=12, fontWeight="bold", color="var(--ink)"
        ).encode(x="gate:Q", y=alt.value(0), text="words:N"),
    ]


def _distinct_names(rows: Sequence[AdapterRow]) -> dict[str, str]:
    """Returns a label per entry id: its name, and its id too where another entry has the same name."""
    names = [row.name for row in rows]
    return {row.entry_id: row.name if names.count(row.name) == 1 else f"{row.name} ({row.entry_id})" for row in rows}


def _group(site: str) -> str:
    """Returns the part of the network that a site lies in, in a word or two."""
    component, _, path = site.partition(":")
    if "text" in component:
        return component.replace("_", " ")
    found = BLOCKS.search(path)
    return f"{found['kind']} {found['number'] or ''}".strip() if found else path.split(".")[0].replace("_", " ")


def _chart(rows: Sequence[Mapping[str, object]]) -> alt.Chart:
    return alt.Chart(alt.Data(values=list(rows)))  # type: ignore[no-untyped-call]


def _depth(group: str) -> int:
    """Returns where a part of the network comes, from the words that go in to the picture that comes out."""
    order = ("text", "conv in", "", "down", "mid", "up", "conv out")
    return next((place for place, start in enumerate(order) if start and group.startswith(start)), order.index(""))


def _block_marks(groups: Sequence[str], *, least: float) -> list[dict[str, object]]:
    """Returns where to write the name of each part: at its first site, if it has at least so many sites."""
    wide = [group for group in dict.fromkeys(groups) if groups.count(group) >= least]
    return [{"index": groups.index(group), "group": group} for group in wide]


def _svg(layers: Sequence[alt.Chart], *, height: int, prefix: str, width: int) -> str:
    chart = (
        alt.layer(*layers)
        .properties(width=width, height=height)
        .configure(background="transparent", padding={"left": 4, "right": 16, "top": 4, "bottom": 4})
        .configure_view(stroke=None)
        .configure_axis(
            labelColor="var(--soft)",
            titleColor="var(--soft)",
            gridColor="var(--line)",
            domain=False,
            ticks=False,
            labelFontSize=12,
            titleFontSize=12,
            titleFontWeight="normal",
            titlePadding=10,
        )
        .configure_axisY(grid=False, labelColor="var(--ink)")
        .configure_legend(labelColor="var(--soft)", titleColor="var(--soft)", labelFontSize=12, titleFontSize=12)
    )
    svg: str = vl_convert.vegalite_to_svg(chart.to_dict(validate=False))
    # Several drawings share one page: their ids must not meet, nor go on counting from the last one that was drawn.
    for number, name in enumerate(dict.fromkeys(re.findall(r' id="([^"]+)"', svg))):
        svg = svg.replace(f' id="{name}"', f' id="{prefix}-{number}"').replace(
            f"url(#{name})", f"url(#{prefix}-{number})"
        )
    svg = re.sub(r' font-family="[^"]*"', "", svg)
    return re.sub(r'<svg ([^>]*?)width="(\d+)" height="(\d+)"', r'<svg \1style="--wide:\2px"', svg, count=1)
