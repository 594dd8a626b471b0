"""The heat map of a comparison: where in the network two bases are alike, as SVG, PNG or a page that loads nothing."""

from __future__ import annotations

from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any

import altair as alt
import vl_convert

from lorax.comparison import ComparedSite, Comparison
from lorax.errors import Stop
from lorax.places import network_order, place_of

SUFFIXES = (".html", ".svg", ".png")
_CELL = 19
_RAMP = ["#b5502f", "#d9a05b", "#e8dcc0", "#7fae96", "#1d6a55"]
_STATES = {"same shape": "#1d6a55", "some without source": "#9cc4b4", "other shape": "#d9a05b", "no source": "#d8d8d4"}
_MOST_LABELS = 200
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body{{margin:2rem;background:#fff;font-family:system-ui,sans-serif}}svg{{max-width:100%;height:auto}}</style>
</head><body>{drawing}</body></html>
"""


def check_heat_map(path: Path) -> None:
    """Raises Stop where a heat map cannot be written under this name."""
    if path.suffix.lower() not in SUFFIXES:
        raise Stop(f"{path}: a heat map ends in {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise Stop(f"{path}: there is no folder {path.parent}; make it first")


def write_heat_map(comparison: Comparison, path: Path) -> None:
    """Writes the heat map, in the format that the name ends in."""
    spec = _chart(comparison).to_dict(validate=False)
    kind = path.suffix.lower()
    if kind == ".png":
        path.write_bytes(vl_convert.vegalite_to_png(spec, scale=2))
        return
    drawing: str = vl_convert.vegalite_to_svg(spec)
    if kind == ".html":
        drawing = _PAGE.format(title=escape(_title(comparison)), drawing=drawing)
    path.write_text(drawing, encoding="utf-8")


def cells(comparison: Comparison) -> list[dict[str, Any]]:
    """Gives one cell for each column and role: its likeness, clipped to 0 and 1, or only whether there is a source."""
    groups: dict[tuple[str, str], list[ComparedSite]] = {}
    for site in comparison.sites:
        place = place_of(site.site)
        groups.setdefault((place.column, place.role), []).append(site)
    return [_cell(column, role, sites) for (column, role), sites in groups.items()]


def _cell(column: str, role: str, sites: list[ComparedSite]) -> dict[str, Any]:
    measured = [site.alike for site in sites if site.alike is not None]
    fed = [site for site in sites if site.source is not None]
    likeness = min(1.0, max(0.0, fmean(measured))) if measured else None
    words = f"{column}, {role}: {len(fed)} of {len(sites)} sites with a source"
    if likeness is not None:
        words += f", {likeness:.2f} alike"
    return {"block": column, "role": role, "alike": likeness, "state": _state(sites), "words": words}


def _state(sites: list[ComparedSite]) -> str:
    fed = [site for site in sites if site.source is not None]
    if not fed:
        return "no source"
    if not any(site.same_shape for site in fed):
        return "other shape"
    return "same shape" if len(fed) == len(sites) else "some without source"


def _chart(comparison: Comparison) -> alt.LayerChart:
    found = cells(comparison)
    columns = sorted({cell["block"] for cell in found}, key=network_order)
    roles = list(dict.fromkeys(cell["role"] for cell in sorted(found, key=lambda cell: _role_order(cell, columns))))
    x = alt.X("block:N", sort=columns, title="block", axis=alt.Axis(labelAngle=-45, labelOverlap=len(columns) > 40))
    y = alt.Y("role:N", sort=roles, title="role", axis=alt.Axis(labelLimit=_MOST_LABELS))
    without = [cell for cell in found if cell["alike"] is None]
    title = "not measured" if comparison.has_weights else "sources"
    layers = [_layer(without, x, y, _state_colour(without, title))] if without else []
    if comparison.has_weights:
        layers.append(_layer([cell for cell in found if cell["alike"] is not None], x, y, _alike_colour()))
    drawing: alt.LayerChart = (
        alt.layer(*layers)
        .resolve_scale(color="independent")
        .properties(
            width=_CELL * max(len(columns), 4),
            height=_CELL * len(roles),
            title=alt.TitleParams(_title(comparison), subtitle=_subtitle(comparison), anchor="start"),
        )
        .configure_view(stroke=None)
        .configure_axis(domain=False, ticks=False, grid=False)
    )
    return drawing


def _role_order(cell: dict[str, Any], columns: list[str]) -> tuple[bool, str, int]:
    text = cell["block"].startswith("text encoder")
    return text, cell["role"], columns.index(cell["block"])


def _layer(found: list[dict[str, Any]], x: alt.X, y: alt.Y, colour: alt.Color) -> alt.Chart:
    data = alt.Data(values=found)  # type: ignore[no-untyped-call]
    chart: alt.Chart = alt.Chart(data).mark_rect(stroke="#ffffff", strokeWidth=1)
    drawn: alt.Chart = chart.encode(x=x, y=y, color=colour, description="words:N")
    return drawn


def _state_colour(found: list[dict[str, Any]], title: str) -> alt.Color:
    states = [state for state in _STATES if any(cell["state"] == state for cell in found)]
    scale = alt.Scale(domain=states, range=[_STATES[state] for state in states])
    return alt.Color("state:N", scale=scale, legend=alt.Legend(title=title))


def _alike_colour() -> alt.Color:
    scale = alt.Scale(domain=[0, 1], range=_RAMP)
    return alt.Color("alike:Q", scale=scale, legend=alt.Legend(title="alike (0 = chance)", values=[0, 0.5, 1]))


def _title(comparison: Comparison) -> str:
    return f"{comparison.source} → {comparison.target}"


def _subtitle(comparison: Comparison) -> str:
    measure = "overlap of leading singular subspaces above chance" if comparison.has_weights else "shapes only"
    return f"{comparison.share:.0%} of the target's sites have a source; {measure}"
