"""All that the ledger holds about how one adapter ended: outcome, verdict, figures, terms. Facts; others word them.

catalogs does not know what a gate's codes mean: who words an account brings the sentences along.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final, cast

from catalogs.errors import Stop
from catalogs.ledger_reader import Reader
from catalogs.report_data import LEADING_FIGURE, Measured
from catalogs.trace import SHOWN_CANDIDATES, TraceNode, trace

PASS, FAIL, UNCERTAIN = "pass", "fail", "uncertain"
"""Outcomes of a verdict."""
NEAR_NAMES: Final = 3
_NOTHING: Final[Mapping[str, object]] = {}

Row = Mapping[str, object]
Figures = Mapping[str, Mapping[str, Measured]]


@dataclass(frozen=True, slots=True)
class Ending:
    """How an entry ended in one run. Times are ISO in UTC.

    refreshed: what a refresh did, in words; is_later: the next run has more to do about it.
    """

    migration: str
    state: str
    reason: str
    text: str
    conversion_id: str
    run_id: str
    decided_at: str
    refreshed: str = ""
    is_later: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the gate said: its outcome, (code, text) of its reasons, and its thresholds, None where a default stood."""

    outcome: str
    reasons: tuple[tuple[str, str], ...] = ()
    gate: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A conversion of an entry that its standing outcome is not about."""

    conversion_id: str
    method: str
    source: str
    target: str
    gain: Measured
    outcome: str


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was made of the adapter. `dropped` and `kept` are shares; `files` and `image` lie under the data folder.

    learnt_from: the conversion that a refresh went on from; before, after: what that changed about the divergence gain
    on samples held out for it.
    """

    conversion_id: str
    method: str = ""
    source: str = ""
    target: str = ""
    sites_mapped: int | None = None
    sites_total: int | None = None
    kept: float | None = None
    dropped: float | None = None
    lost_sites: tuple[tuple[str, str], ...] = ()
    files: tuple[str, ...] = ()
    image: str = ""
    location: str = ""
    learnt_from: str = ""
    before: float | None = None
    after: float | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """Everything about how one entry ended.

    standing: the latest outcome, None where no run has settled it; others: other outcomes, the newest first; policy:
    (code, text) of what its terms forbid; figures: candidate -> figure -> what was measured; margins: by rival, how
    much more of the leading figure the conversion has; settings: of the run that decided.
    """

    entry_key: str
    entry_id: str
    name: str
    standing: Ending | None = None
    others: tuple[Ending, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    policy: tuple[tuple[str, str], ...] = ()
    origin: str = ""
    base: str = ""
    base_label: str = ""
    left_out: int = 0
    conversion: Conversion | None = None
    judgement: Judgement | None = None
    figures: Figures = field(default_factory=dict)
    margins: Mapping[str, Measured] = field(default_factory=dict)
    samples: int = 0
    kind: str = ""
    words: tuple[str, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    report: str = ""

    def figure(self, name: str = LEADING_FIGURE, *, of: str = "converted") -> Measured:
        """Returns one figure of one candidate, an empty one where there is none."""
        return self.figures.get(of, {}).get(name, Measured(None))


def account_of(reader: Reader, wanted: str | Path) -> Account:
    """Returns the account of an adapter; of the outcome that a conversion had, where `wanted` names a conversion.

    `wanted` is what `trace` takes, where a plan is no adapter, or the name of a file or folder of the catalogue with or
    without its ending. Raises Stop, with near names, when nothing or more than one adapter fits.
    """
    entry_key, conversion_id = _located(reader, wanted)
    rows = reader.rows("SELECT * FROM outcomes WHERE entry_key = ? ORDER BY sequence DESC", [entry_key])
    fitting = (row for row in rows if conversion_id in (None, row["conversion_id"]))
    standing = next(fitting, None)
    chosen = _text(standing["conversion_id"]) if standing else conversion_id or ""
    until = cast("int", standing["sequence"]) if standing else (1 << 62)
    entry = _one(reader, "SELECT * FROM entries WHERE entry_key = ?", entry_key)
    adapter = _one(reader, "SELECT * FROM adapters WHERE entry_key = ? ORDER BY read_at DESC LIMIT 1", entry_key)
    scored = _body(reader, "scored", chosen, until)
    run = _one(reader, "SELECT settings, report FROM runs WHERE run_id = ?", standing["run_id"] if standing else "")
    first_known = standing or (rows[0] if rows else {})
    return Account(
        entry_key=entry_key,
        entry_id=_text(entry.get("entry_id")) or _text(first_known.get("entry_id")),
        name=_text(entry.get("name")) or _text(first_known.get("name")) or entry_key,
        standing=_ending(standing, _body(reader, "outcome", entry_key, until)) if standing else None,
        others=tuple(_others(rows, standing)),
        attempts=tuple(_attempts(reader, entry_key, {chosen, *(_text(row["conversion_id"]) for row in rows)})),
        policy=_pairs(_json(entry.get("reasons"))),
        origin=_text(entry.get("origin")),
        base=_text(adapter.get("base")),
        base_label=_text(entry.get("base_label")),
        left_out=cast("int", adapter.get("unmappable_tensors") or 0),
        conversion=_conversion(reader, chosen, scored),
        judgement=_judgement(_body(reader, "judged", chosen, until)),
        figures={name: _measured(found) for name, found in _object(scored.get("figures")).items()},
        margins=_measured(scored.get("margins")),
        samples=cast("int", scored.get("samples") or 0),
        kind=_text(scored.get("kind")),
        words=tuple(map(_text, _list(scored.get("words")))),
        settings=_object(_json(run.get("settings"))),
        report=_text(run.get("report")),
    )


def _located(reader: Reader, wanted: str | Path) -> tuple[str, str | None]:
    """Returns an entry's key, and the id of its conversion where that is what was asked for."""
    path = Path(wanted)
    if path.exists() and len(keys := _by_place(reader, path.absolute())) == 1:
        return keys[0], None
    text = str(wanted).strip()
    try:
        root = trace(reader, wanted)
    except Stop as problem:
        return _by_file_name(reader, text, problem), None
    if root.what == "plan":
        raise Stop(f"{wanted} is a plan, and plans are not rejected; `lorax trace {wanted}` shows it. Name an adapter")
    steps = {node.what: node.name for node in _nodes(root)}
    return steps["entry"], steps.get("conversion") if root.what != "outcome" else None


def _nodes(root: TraceNode) -> Iterator[TraceNode]:
    yield root
    for node in root.made_from:
        yield from _nodes(node)


def _by_place(reader: Reader, path: Path) -> list[str]:
    """Returns the entries whose weights lie at this place, or right in this folder: not all of them were ever read."""
    seen = reader.rows(
        "SELECT subject, body->>'$.entry.weights' AS weights FROM event WHERE kind = 'entry_seen' "
        "QUALIFY row_number() OVER (PARTITION BY subject ORDER BY sequence DESC) = 1 ORDER BY subject"
    )
    places = {_text(row["subject"]): Path(_text(row["weights"])) for row in seen if row["weights"]}
    return [key for key, place in places.items() if path in (place, place.parent)]


def _by_file_name(reader: Reader, text: str, problem: Stop) -> str:
    """Returns the one entry whose file or folder has this name; else raises the problem, with near names."""
    rows = reader.rows("SELECT entry_key, entry_id, name FROM entries ORDER BY entry_key")
    names = {_text(row["entry_key"]): _spoken(row) for row in rows}
    if any(text.casefold() == _text(row["name"]).casefold() for row in rows):
        raise problem
    keys = [key for key, spoken in names.items() if text.casefold() in spoken]
    if len(keys) == 1:
        return keys[0]
    if keys:
        more = ", …" if len(keys) > SHOWN_CANDIDATES else ""
        raise Stop(f"{text} fits {len(keys)} adapters: {', '.join(keys[:SHOWN_CANDIDATES])}{more}; give one of these")
    written = {spoken: shown for row in rows for spoken, shown in _spoken(row).items()}
    near = difflib.get_close_matches(text.casefold(), list(written), n=NEAR_NAMES, cutoff=0.6)
    shown = dict.fromkeys(written[name] for name in near)
    raise Stop(f"{problem}. Did you mean {' or '.join(shown)}?" if shown else str(problem)) from problem


def _spoken(row: Row) -> dict[str, str]:
    """Returns what people may call an entry, in small letters, with how it is written."""
    file = PurePosixPath(_text(row["entry_id"]))
    return {name.casefold(): name for name in (_text(row["name"]), file.name, file.stem, str(file)) if name}


def _ending(row: Row, body: Row = _NOTHING) -> Ending:
    names = ("migration", "state", "reason", "text", "conversion_id", "run_id", "decided_at")
    known = {name: _text(row[name]) for name in names}
    return Ending(**known, refreshed=_text(body.get("refreshed")), is_later=body.get("later") is True)


def _others(rows: Sequence[Row], standing: Row | None) -> Iterator[Ending]:
    """Yields the outcomes besides the standing one, of equal ones of a migration the newest."""

    def told(row: Row) -> tuple[object, ...]:
        return tuple(row[name] for name in ("migration", "state", "reason", "conversion_id"))

    seen = {told(standing)} if standing else set()
    for row in rows:
        if told(row) not in seen:
            seen.add(told(row))
            yield _ending(row)


def _attempts(reader: Reader, entry_key: str, known: set[str]) -> Iterator[Attempt]:
    """Yields the conversions that no outcome is about, the newest first: what a refresh began from, for one."""
    rows = reader.rows("SELECT * FROM conversions WHERE entry_key = ? ORDER BY converted_at DESC", [entry_key])
    for row in rows:
        name = _text(row["conversion_id"])
        if name not in known:
            figures = _object(_body(reader, "scored", name).get("figures"))
            judged = _judgement(_body(reader, "judged", name))
            yield Attempt(
                conversion_id=name,
                method=_text(row["method"]),
                source=_text(row["source"]),
                target=_text(row["target"]),
                gain=_measured(figures.get("converted")).get(LEADING_FIGURE, Measured(None)),
                outcome=judged.outcome if judged else "",
            )


def _conversion(reader: Reader, conversion_id: str, scored: Row) -> Conversion | None:
    row = _one(reader, "SELECT * FROM conversions WHERE conversion_id = ?", conversion_id)
    if not row:
        return None
    published = "SELECT location FROM publications WHERE conversion_id = ? AND progress = 'published'"
    files = [_text(_object(file).get("name")) for file in _list(_json(row["files"]))]
    lost = [_object(site) for site in _list(_json(row["dropped_sites"]))]
    body = _body(reader, "converted", conversion_id)
    learnt = _object(_object(body.get("refresh")).get("divergence_gain"))
    return Conversion(
        conversion_id=conversion_id,
        method=_text(row["method"]),
        source=_text(row["source"]),
        target=_text(row["target"]),
        sites_mapped=cast("int | None", row["sites_mapped"]),
        sites_total=cast("int | None", row["sites_total"]),
        kept=_number(row["kept_norm"]),
        dropped=_number(row["dropped_norm_share"]),
        lost_sites=tuple((_text(site.get("site")), _text(site.get("reason"))) for site in lost),
        files=tuple(f"conversions/{conversion_id}/files/{name}" for name in files),
        image=_text(scored.get("images")),
        location=_text(_one(reader, published, conversion_id).get("location")),
        learnt_from=_text(body.get("refreshed_from")),
        before=_number(learnt.get("before")),
        after=_number(learnt.get("after")),
    )


def _judgement(body: Row) -> Judgement | None:
    """Reads a verdict; ledgers of before there were three outcomes only know whether it passed."""
    if not body:
        return None
    outcome = _text(body.get("outcome")) or (PASS if body.get("passed") else FAIL)
    return Judgement(outcome, _pairs(body.get("reasons")), _object(body.get("gate")))


def _body(reader: Reader, kind: str, subject: str, until: int = 1 << 62) -> Row:
    """Returns the last fact of a kind about a subject up to a sequence; empty where there is none."""
    sql = "SELECT body FROM event WHERE kind = ? AND subject = ? AND sequence <= ? ORDER BY sequence DESC LIMIT 1"
    rows = reader.rows(sql, [kind, subject, until])
    return _object(_json(rows[0]["body"])) if rows else {}


def _one(reader: Reader, sql: str, name: object) -> Row:
    rows = reader.rows(sql, [name])
    return rows[0] if rows else {}


def _measured(values: object) -> dict[str, Measured]:
    found = {name: _object(figure) for name, figure in _object(values).items()}
    return {
        name: Measured(*(_number(one.get(part)) for part in ("value", "low", "high"))) for name, one in found.items()
    }


def _pairs(values: object) -> tuple[tuple[str, str], ...]:
    """Returns (code, text) of each reason."""
    listed: Iterable[Sequence[object]] = [pair for pair in _list(values) if isinstance(pair, list)]
    return tuple((_text(pair[0]), _text(pair[1])) for pair in listed if len(pair) == 2)


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _json(value: object) -> object:
    return cast("object", json.loads(value)) if isinstance(value, str) else value


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else []


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}
