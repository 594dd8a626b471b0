"""The report of a run: one HTML file that asks nobody for anything, to read, to keep and to send around."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import jinja2
from markupsafe import Markup

from catalogs.report_charts import NARROW, WIDE, comparison_chart, distribution_chart, in_words, similarity_chart
from catalogs.report_data import (
    LEADING_FIGURE,
    AdapterRow,
    LostSite,
    Measured,
    PairSimilarity,
    ReportData,
    SiteSimilarity,
    report_data_from_ledger,
)

__all__ = [
    "AdapterRow",
    "LostSite",
    "Measured",
    "PairSimilarity",
    "ReportData",
    "SiteSimilarity",
    "render_report",
    "report_data_from_ledger",
]

TEMPLATES: Final = Path(__file__).parent / "templates"
STATES: Final = {
    "published": "on the hub",
    "passed": "good, not published",
    "rejected": "the gate did not open",
    "skipped": "left alone",
    "quarantined": "broken file",
    "failed": "try again",
}
CANDIDATES: Final = {
    "converted": "this conversion",
    "copy": "plain copy",
    "random": "random weights",
    "zero": "no adapter",
}
IMAGE_BYTES: Final = 4 << 20
SMALL_IMAGE_PIXELS: Final = 240
PNG: Final = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class Picture:
    """An image as the page holds it: a data address, its row labels, and whether its pixels are to be seen as such."""

    address: str
    rows: tuple[str, ...]
    is_small: bool
    ratio: str


def render_report(data: ReportData, path: Path, *, most_pictures: int = 120) -> Path:
    """Writes the report and returns its path. The same data gives the same file.

    Everything lies inside the file: styles, charts as SVG, images as data addresses; nothing is ever requested. At most
    `most_pictures` adapters are shown with their images, and as many with the sites that they lost; the page says how
    many it left out. An image that cannot be
    read, is no PNG, or is larger than 4 MiB is replaced by a word about it.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        number=_number, measured=in_words, percent=_percent, moment=_moment, duration=_duration, words=_words
    )
    shown = sorted((row for row in data.adapters if row.image is not None), key=_best_first)
    lossy = sorted((row for row in data.adapters if row.lost_sites), key=_most_lost_first)
    html = environment.get_template("report.html.jinja").render(
        data=data,
        states=STATES,
        candidates=CANDIDATES,
        leading=LEADING_FIGURE,
        counts=_counts(data.adapters),
        summary=_summary(data),
        rows=sorted(data.adapters, key=_best_first),
        gallery=[(row, _picture(row), _bars(row)) for row in shown[:most_pictures]],
        pictured={row.entry_id: number for number, row in enumerate(shown[:most_pictures])},
        left_out=max(0, len(shown) - most_pictures),
        refusals=_refusals(data),
        losses=lossy[:most_pictures],
        losses_left_out=max(0, len(lossy) - most_pictures),
        distribution=_both(lambda width: distribution_chart(data.adapters, data.gate_threshold, width=width)),
        comparison=_both(lambda width: comparison_chart(data.adapters, data.gate_threshold, width=width)),
        scored=sum(row.figure("converted").value is not None for row in data.adapters),
        similarities=[
            (pair, _strip(pair, number), _least_alike(pair)) for number, pair in enumerate(data.similarities)
        ],
        settings=json.dumps(data.settings, indent=2, ensure_ascii=False, default=str),
        total_seconds=data.seconds.get("total"),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(html, encoding="utf-8")
    part.replace(path)
    return path


def _counts(adapters: Sequence[AdapterRow]) -> list[tuple[str, int]]:
    """Returns (state, entries) for the states that occur, in the order of `STATES`."""
    counted = Counter(row.state for row in adapters)
    return [(state, counted[state]) for state in (*STATES, *sorted(set(counted) - set(STATES))) if counted[state]]


def _summary(data: ReportData) -> str:
    """Returns the whole run in one or two sentences."""
    total = len(data.adapters)
    counts = dict(_counts(data.adapters))
    entries = f"{total} {'entry' if total == 1 else 'entries'}"
    if data.is_dry_run:
        return f"A dry run over {entries}: this is what would happen. Nothing was written but this page."
    if not total:
        return "The catalogue holds no entries."
    news = sum(row.is_of_this_run for row in data.adapters)
    earlier = "" if news == total else f" Earlier runs had settled {total - news} of the {total}."
    if news == 0:
        earlier = " Earlier runs had settled all of them: there was nothing to do."
    done = counts.get("published", 0)
    return f"{done} of {entries} {'is' if done == 1 else 'are'} published on the new base.{earlier}"


def _best_first(row: AdapterRow) -> tuple[int, float, str, str]:
    order = [*STATES].index(row.state) if row.state in STATES else len(STATES)
    return order, -(row.figure("converted").value or -9.0), row.name.casefold(), row.entry_id


def _most_lost_first(row: AdapterRow) -> tuple[float, str, str]:
    return -(row.dropped_norm_share or 0.0), row.name.casefold(), row.entry_id


def _bars(row: AdapterRow) -> list[tuple[str, Measured, float]]:
    """Returns (label, figure, share of the full bar from 0 to 1) for each candidate that was measured."""
    measured = [(label, row.figure(candidate)) for candidate, label in CANDIDATES.items()]
    return [(label, one, min(1.0, max(0.0, one.value))) for label, one in measured if one.value is not None]


def _refusals(data: ReportData) -> list[tuple[str, str, str, list[AdapterRow]]]:
    """Returns (state, reason, its sentence, entries) for everything that did not end well, the most frequent first."""
    groups: dict[tuple[str, str], list[AdapterRow]] = {}
    for row in sorted(data.adapters, key=lambda row: (row.name.casefold(), row.entry_id)):
        if row.state != "published":
            groups.setdefault((row.state, row.reason), []).append(row)
    order = [*STATES]
    ranked = sorted(groups, key=lambda key: (order.index(key[0]) if key[0] in order else 99, -len(groups[key]), key[1]))
    return [(state, reason, data.reasons.get(reason, ""), groups[state, reason]) for state, reason in ranked]


def _least_alike(pair: PairSimilarity) -> list[SiteSimilarity]:
    return sorted(pair.sites, key=lambda site: -site.weight_distance)[:5]


def _picture(row: AdapterRow) -> Picture | None:
    """Returns the image of a row for the page; None when it cannot be shown."""
    try:
        if isinstance(row.image, Path) and row.image.stat().st_size > IMAGE_BYTES:
            return None
        content = row.image.read_bytes() if isinstance(row.image, Path) else row.image or b""
    except OSError:
        return None
    if len(content) > IMAGE_BYTES or not content.startswith(PNG) or len(content) < 24:
        return None
    width, height = int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
    address = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    labels = tuple(" + ".join(part.strip() for part in label.split("+")) for label in row.image_rows)
    return Picture(address, labels, width < SMALL_IMAGE_PIXELS, f"{width} / {height}")


def _both(draw: Callable[[int], str]) -> Markup:
    """Returns a drawing for a desk and one for a phone; the page shows the one that fits. Empty if there is none.

    Trusts the drawings: they are our own, and their texts were escaped when they were drawn.
    """
    drawn = [(name, draw(width)) for name, width in (("wide", WIDE), ("narrow", NARROW))]
    return Markup("").join(Markup('<div class="{}">{}</div>').format(name, Markup(svg)) for name, svg in drawn if svg)  # noqa: S704


def _strip(pair: PairSimilarity, number: int) -> Markup:
    return _both(lambda width: similarity_chart(pair, prefix=f"alike{number}", width=width))


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _moment(text: str) -> str:
    """Returns an ISO time as a person writes it; what is no time is returned as it is."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _words(name: str) -> str:
    return name.replace("_", " ")
