"""What a report shows, as plain values, and how it is gathered from the ledger."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from catalogs.errors import REASONS, Stop
from catalogs.ledger_reader import Reader

LEADING_FIGURE = "divergence_gain"


@dataclass(frozen=True, slots=True)
class Measured:
    """One figure with its interval; None where it could not be measured."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class LostSite:
    """A site that an adapter patches and that has no home in the target base; `share` is of its squared norm."""

    site: str
    reason: str
    share: float


@dataclass(frozen=True, slots=True)
class AdapterRow:
    """One entry of the catalogue and all that is known about it at the end of a run.

    `dialect` is that of the source file. `files` are the converted ones, from the data folder on.
    `figures` maps candidate (converted, copy, random …) and figure to what was measured. `image` is one PNG whose rows,
    of equal height, are named by `image_rows`. `is_of_this_run` tells apart what an earlier run had settled.
    """

    name: str
    entry_id: str
    state: str
    reason: str
    text: str = ""
    is_of_this_run: bool = True
    method: str = ""
    source: str = ""
    target: str = ""
    base: str = ""
    dialect: str = ""
    ranks: tuple[int, ...] = ()
    kept_norm: float | None = None
    dropped_norm_share: float | None = None
    sites_mapped: int | None = None
    sites_total: int | None = None
    lost_sites: tuple[LostSite, ...] = ()
    files: tuple[str, ...] = ()
    conversion_id: str = ""
    location: str = ""
    figures: Mapping[str, Mapping[str, Measured]] = field(default_factory=dict)
    image: bytes | Path | None = None
    image_rows: tuple[str, ...] = ()

    def figure(self, candidate: str, name: str = LEADING_FIGURE) -> Measured:
        """Returns one figure of one candidate; an empty one where there is none."""
        return self.figures.get(candidate, {}).get(name, Measured(None))


@dataclass(frozen=True, slots=True)
class SiteSimilarity:
    """How alike one site of two bases is: `weight_distance` 0 is equal; `left` and `right` 1 are equal directions."""

    site: str
    weight_distance: float
    left: float
    right: float


@dataclass(frozen=True, slots=True)
class PairSimilarity:
    """The similarity of two bases, site by site in the order of the network."""

    source: str
    target: str
    sites: tuple[SiteSimilarity, ...]


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything a report shows. Times are ISO in UTC; `reasons` explains each reason code in a sentence."""

    migration: str
    run_id: str
    started_at: str
    finished_at: str = ""
    adapters: tuple[AdapterRow, ...] = ()
    similarities: tuple[PairSimilarity, ...] = ()
    gate_threshold: float | None = None
    gate: Mapping[str, object] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    code_version: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=lambda: REASONS)
    is_dry_run: bool = False
    ledger_head: str = ""


def report_data_from_ledger(
    reader: Reader,
    run_id: str,
    *,
    data_folder: Path | None = None,
    reasons: Mapping[str, str] = REASONS,
    is_dry_run: bool = False,
) -> ReportData:
    """Gathers the report of a run: the current state of every entry of its migration, whichever run decided it.

    Relative image paths are taken from `data_folder`. Raises Stop if the ledger holds no such run.
    """
    runs = reader.rows("SELECT * FROM runs WHERE run_id = ?", [run_id])
    if not runs:
        raise Stop(f"the ledger holds no run {run_id!r}; `lorax query runs` lists them")
    run = runs[0]
    settings = _json_object(run["settings"])
    gate = _json_object(settings.get("gate")) or _last_gate(reader, run_id)
    head = reader.rows("SELECT sequence, hash FROM event ORDER BY sequence DESC LIMIT 1")[0]
    return ReportData(
        migration=_text(run["migration"]),
        run_id=run_id,
        started_at=_text(run["started_at"]),
        finished_at=_text(run["finished_at"]),
        adapters=_adapters(reader, _text(run["migration"]), run_id, data_folder),
        similarities=_similarities(reader, _text(run["migration"]), run_id),
        gate_threshold=_float(gate.get(LEADING_FIGURE)),
        gate=gate,
        settings=settings,
        seconds={str(k): float(str(v)) for k, v in _json_object(run["seconds"]).items()},
        code_version=_text(run["code_version"]),
        versions={str(k): str(v) for k, v in _json_object(run["versions"]).items()},
        reasons=reasons,
        is_dry_run=is_dry_run,
        ledger_head=f"{head['sequence']} · {_text(head['hash'])[:16]}",
    )


ROWS = """
SELECT states.*, conversions.* EXCLUDE (conversion_id, entry_key, run_id, seconds, dialect), publications.location,
    adapters.base, adapters.dialect, adapters.ranks, scored.body->>'$.images' AS image,
    scored.body->'$.image_rows' AS image_rows
FROM states
LEFT JOIN conversions ON conversions.conversion_id = states.conversion_id
LEFT JOIN (
    FROM publications QUALIFY row_number() OVER (PARTITION BY conversion_id ORDER BY published_at DESC) = 1
) AS publications ON publications.conversion_id = states.conversion_id
LEFT JOIN (
    FROM adapters QUALIFY row_number() OVER (PARTITION BY entry_key ORDER BY read_at DESC) = 1
) AS adapters ON adapters.entry_key = states.entry_key
LEFT JOIN (
    FROM event WHERE kind = 'scored' QUALIFY row_number() OVER (PARTITION BY subject ORDER BY sequence DESC) = 1
) AS scored ON scored.subject = states.conversion_id
WHERE states.migration = ? ORDER BY states.name, states.entry_key
"""


def _last_gate(reader: Reader, run_id: str) -> Mapping[str, object]:
    rows = reader.rows("SELECT gate FROM verdicts WHERE run_id = ? ORDER BY judged_at DESC LIMIT 1", [run_id])
    return _json_object(rows[0]["gate"]) if rows else {}


def _adapters(reader: Reader, migration: str, run_id: str, data_folder: Path | None) -> tuple[AdapterRow, ...]:
    figures = _figures(reader)
    return tuple(
        AdapterRow(
            name=_text(row["name"]) or _text(row["entry_id"]),
            entry_id=_text(row["entry_id"]),
            state=_text(row["state"]),
            reason=_text(row["reason"]),
            text=_text(row["text"]),
            is_of_this_run=row["run_id"] == run_id,
            method=_text(row["method"]),
            source=_text(row["source"]),
            target=_text(row["target"]),
            base=_text(row["base"]),
            dialect=_text(row["dialect"]),
            ranks=tuple(cast("list[int]", row["ranks"] or [])),
            kept_norm=_float(row["kept_norm"]),
            dropped_norm_share=_float(row["dropped_norm_share"]),
            sites_mapped=cast("int | None", row["sites_mapped"]),
            sites_total=cast("int | None", row["sites_total"]),
            lost_sites=_lost_sites(row["dropped_sites"], _float(row["dropped_norm_share"])),
            files=_converted_files(_text(row["conversion_id"]), row["files"]),
            conversion_id=_text(row["conversion_id"]),
            location=_text(row["location"]),
            figures=figures.get(_text(row["conversion_id"]), {}),
            image=_image(_text(row["image"]), data_folder),
            image_rows=tuple(str(label) for label in json.loads(_text(row["image_rows"]) or "[]")),
        )
        for row in reader.rows(ROWS, [migration])
    )


def _figures(reader: Reader) -> dict[str, dict[str, dict[str, Measured]]]:
    """Returns every latest figure: conversion id -> candidate -> figure."""
    found: dict[str, dict[str, dict[str, Measured]]] = {}
    for row in reader.rows("SELECT conversion_id, candidate, figure, value, low, high FROM scores"):
        candidates = found.setdefault(_text(row["conversion_id"]), {})
        measured = Measured(_float(row["value"]), _float(row["low"]), _float(row["high"]))
        candidates.setdefault(_text(row["candidate"]), {})[_text(row["figure"])] = measured
    return found


def _similarities(reader: Reader, migration: str, run_id: str) -> tuple[PairSimilarity, ...]:
    rows = reader.rows(
        "SELECT DISTINCT ON (plans.source, plans.target) plans.source, plans.target, plans.similarity FROM plans "
        "WHERE json_array_length(plans.similarity) > 0 AND (plans.run_id = ? OR plans.plan_id IN ("
        "SELECT conversions.plan_id FROM conversions SEMI JOIN states ON states.conversion_id = "
        "conversions.conversion_id AND states.migration = ?)) "
        "ORDER BY plans.source, plans.target, plans.compiled_at DESC",
        [run_id, migration],
    )
    return tuple(
        PairSimilarity(
            _text(row["source"]),
            _text(row["target"]),
            tuple(
                SiteSimilarity(
                    str(site["site"]), float(site["weight_distance"]), float(site["left"]), float(site["right"])
                )
                for site in json.loads(_text(row["similarity"]))
                if None not in (site.get("weight_distance"), site.get("left"), site.get("right"))
            ),
        )
        for row in rows
    )


def _lost_sites(value: object, dropped_norm_share: float | None) -> tuple[LostSite, ...]:
    """Returns the sites without a home, the heaviest first; together their shares are the share that was dropped."""
    sites = cast("list[Mapping[str, object]]", _json_list(value))
    squares = [(_float(site.get("norm")) or 0.0) ** 2 for site in sites]
    unit = (dropped_norm_share or 0.0) / (sum(squares) or 1.0)
    found = [
        LostSite(_text(site.get("site")), _text(site.get("reason")), square * unit)
        for site, square in zip(sites, squares, strict=True)
    ]
    return tuple(sorted(found, key=lambda one: (-one.share, one.site)))


def _converted_files(conversion_id: str, value: object) -> tuple[str, ...]:
    files = cast("list[Mapping[str, object]]", _json_list(value))
    return tuple(f"conversions/{conversion_id}/files/{_text(file.get('name'))}" for file in files)


def _image(path: str, data_folder: Path | None) -> Path | None:
    if not path:
        return None
    return (data_folder or Path()) / path


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _float(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _json_list(value: object) -> list[object]:
    parsed = json.loads(value) if isinstance(value, str) else value
    return parsed if isinstance(parsed, list) else []


def _json_object(value: object) -> Mapping[str, object]:
    parsed = json.loads(value) if isinstance(value, str) else value
    return cast("Mapping[str, object]", parsed) if isinstance(parsed, dict) else {}
