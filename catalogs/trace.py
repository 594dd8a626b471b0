"""From a published file back to the bytes it came from, and to the reason why it was allowed.

publication <- verdict <- scores <- conversion <- plan
                                               <- adapter <- stored file <- entry
                                               <- refresh, where there was one <- the conversion before it
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from catalogs.errors import Refused, Stop
from catalogs.ledger_reader import Reader
from catalogs.release import MANIFEST, open_release
from catalogs.store import sha256_file

SHORTEST_ID: Final = 6
SHOWN_CANDIDATES: Final = 8
SHOWN_OF_A_REFRESH: Final = (
    *("started_from", "starts", "divergence_gain", "drift", "allowed_drift"),
    *("steps", "seconds", "timed", "out_of_time", "limits", "seed"),
)

Row = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class TraceNode:
    """One step on the way back: what it is, which one, the facts recorded about it, and what it was made from."""

    what: str
    name: str
    facts: tuple[tuple[str, object], ...]
    made_from: tuple[TraceNode, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Returns the tree as plain JSON values."""
        return {
            "what": self.what,
            "name": self.name,
            "facts": dict(self.facts),
            "made_from": [node.to_json() for node in self.made_from],
        }

    def lines(self, *, indent: str = "") -> list[str]:
        """Returns the tree as text, one line per fact, for a terminal."""
        shown = [f"{indent}{self.what}  {self.name}"]
        shown += [f"{indent}    {label}: {_plain(value)}" for label, value in self.facts if value not in (None, "", [])]
        for node in self.made_from:
            shown += node.lines(indent=indent + "  ")
        return shown


def trace(reader: Reader, wanted: str | Path) -> TraceNode:
    """Traces a file, or an id, back to where it came from.

    `wanted` is the path of any file of a publication, of a publication's folder, or of a source file; or a conversion
    id, plan id or sha256 (or the first six or more digits of one); or an entry's key, id or name. Raises Stop when
    nothing or more than one thing fits.
    """
    path = Path(wanted)
    found = _found_by_path(reader, path) if path.exists() else _found_by_id(reader, str(wanted).strip())
    if not found:
        raise Stop(f"the ledger knows nothing about {wanted}; `lorax query states` lists what it knows")
    if len(found) > 1:
        raise Stop(f"{wanted} fits {len(found)} things: {_some(found)}; give more of the id, or one of these")
    kind, name = found[0]
    if kind == "entry":
        return _outcome_node(reader, name)
    return _plan_node(reader, name) if kind == "plan" else _publication_node(reader, name)


def _found_by_path(reader: Reader, path: Path) -> list[tuple[str, str]]:
    folder = path if path.is_dir() else path.parent
    if path.is_file():
        found = _found_by_file(reader, sha256_file(path))
        if found:
            return found
    try:
        conversion_id = open_release(folder).conversion_id
    except Refused:
        return []
    if not reader.rows("SELECT 1 FROM conversions WHERE conversion_id = ?", [conversion_id]):
        raise Stop(
            f"{folder} is conversion {conversion_id} of another ledger; its {MANIFEST} says where it comes from. "
            "Name the data folder of that ledger with --data"
        )
    return [("conversion", conversion_id)]


def _found_by_file(reader: Reader, sha256: str) -> list[tuple[str, str]]:
    """Finds what a file is by its bytes: part of a publication, a converted file, or a source file."""
    released = reader.rows(
        "SELECT DISTINCT subject FROM event WHERE kind IN ('published', 'converted') "
        "AND (contains((body->>'$.files'), ?) OR (body->>'$.manifest_sha256') = ?)",
        [sha256, sha256],
    )
    if released:
        return [("conversion", str(row["subject"])) for row in released]
    stored = reader.rows("SELECT DISTINCT entry_key FROM files WHERE sha256 = ? ORDER BY entry_key", [sha256])
    return [("entry", str(row["entry_key"])) for row in stored]


def _found_by_id(reader: Reader, text: str) -> list[tuple[str, str]]:
    entries = reader.rows(
        "SELECT entry_key FROM entries WHERE ? IN (entry_key, entry_id) OR lower(name) = lower(?) ORDER BY entry_key",
        [text, text],
    )
    found = [("entry", str(row["entry_key"])) for row in entries]
    if found or len(text) < SHORTEST_ID or not re.fullmatch(r"[0-9a-fA-F]+", text):
        return found
    digits = text.lower()
    for kind, table, column in (("conversion", "conversions", "conversion_id"), ("plan", "plans", "plan_id")):
        sql = f"SELECT {column} FROM {table} WHERE starts_with({column}, ?) ORDER BY 1"  # noqa: S608
        rows = reader.rows(sql, [digits])
        found += [(kind, str(row[column])) for row in rows]
    return found or (_found_by_file(reader, digits) if len(digits) == 64 else [])


def _some(found: Sequence[tuple[str, str]]) -> str:
    shown = [f"{kind} {name}" for kind, name in found[:SHOWN_CANDIDATES]]
    return ", ".join(shown) + (", …" if len(found) > SHOWN_CANDIDATES else "")


def _outcome_node(reader: Reader, entry_key: str) -> TraceNode:
    rows = reader.rows("SELECT * FROM states WHERE entry_key = ? ORDER BY decided_at DESC", [entry_key])
    if not rows:
        return _file_node(reader, entry_key)
    conversions = [str(row["conversion_id"]) for row in rows if row["conversion_id"]]
    if conversions:
        sources = tuple(_publication_node(reader, each) for each in dict.fromkeys(conversions))
    else:
        sources = (_adapter_node(reader, entry_key, None),)
    facts = tuple(
        (str(row["migration"]) or "migration", f"{row['state']} ({row['reason']}) {row['text'] or ''}".strip())
        for row in rows
    )
    return TraceNode("outcome", entry_key, facts, sources)


def _publication_node(reader: Reader, conversion_id: str) -> TraceNode:
    verdict = _verdict_node(reader, conversion_id)
    rows = reader.rows("SELECT * FROM publications WHERE conversion_id = ? ORDER BY hub", [conversion_id])
    for row in rows:
        facts = _facts(row, "progress", "hub", "published_at", "manifest_sha256", "run_id")
        verdict = TraceNode("publication", str(row["location"] or row["slug"]), facts, (verdict,))
    return verdict


def _verdict_node(reader: Reader, conversion_id: str) -> TraceNode:
    scores = _scores_node(reader, conversion_id)
    rows = reader.rows("SELECT * FROM verdicts WHERE conversion_id = ?", [conversion_id])
    if not rows:
        return scores
    name = "passed" if rows[0]["passed"] else "not passed"
    return TraceNode("verdict", name, _facts(rows[0], "reasons", "gate", "judged_at"), (scores,))


def _scores_node(reader: Reader, conversion_id: str) -> TraceNode:
    conversion = _conversion_node(reader, conversion_id)
    rows = reader.rows(
        "SELECT * FROM scores WHERE conversion_id = ? ORDER BY candidate <> 'converted', candidate, figure",
        [conversion_id],
    )
    if not rows:
        return conversion
    facts = tuple((f"{row['candidate']} {row['figure']}", row["value"]) for row in rows)
    return TraceNode("scores", f"probe {rows[0]['probe_id']}", facts, (conversion,))


def _conversion_node(reader: Reader, conversion_id: str) -> TraceNode:
    row = reader.rows(
        "SELECT conversions.*, runs.code_version FROM conversions "
        "LEFT JOIN runs ON runs.run_id = conversions.run_id WHERE conversion_id = ?",
        [conversion_id],
    )[0]
    facts = _facts(
        row,
        *("method", "source", "target", "sites_mapped", "sites_total"),
        *("kept_norm", "dropped_norm_share", "approximated_norm_share"),
        *("dialect", "files", "weights_sha256_out", "code_version", "run_id", "converted_at"),
    )
    if not reader.rows("SELECT 1 FROM scores WHERE conversion_id = ? LIMIT 1", [conversion_id]):
        facts = (("score", "none, and nothing is published without one"), *facts)
    if lost := _lost_sites(row["dropped_sites"]):
        facts = (*facts, ("sites without a home", lost))
    refresh = _refresh_nodes(reader, conversion_id)
    plan = _plan_node(reader, str(row["plan_id"]))
    adapter = _adapter_node(reader, str(row["entry_key"]), str(row["weights_sha256"]))
    return TraceNode("conversion", conversion_id, facts, (*refresh, plan, adapter))


def _refresh_nodes(reader: Reader, conversion_id: str) -> tuple[TraceNode, ...]:
    """Returns what a conversion learnt, where it was refreshed, and why the one before it did not do."""
    (row,) = reader.rows(
        "SELECT body->>'$.refreshed_from' AS earlier, body->'$.refresh' AS refresh FROM event "
        "WHERE kind = 'converted' AND subject = ? ORDER BY sequence DESC LIMIT 1",
        [conversion_id],
    )
    told = _value(row["refresh"])
    if not isinstance(told, dict):
        return ()
    facts = tuple((name.replace("_", " "), told[name]) for name in SHOWN_OF_A_REFRESH if name in told)
    earlier = str(row["earlier"] or "")
    nodes = (_earlier_node(reader, earlier),) if earlier else ()
    return (TraceNode("refresh", f"from {told.get('started_from')}", facts, nodes),)


def _earlier_node(reader: Reader, conversion_id: str) -> TraceNode:
    """Returns a conversion that a refresh went on from, in short: what it was made from is shown beside it."""
    (row,) = reader.rows(
        "SELECT any_value(conversions.method) AS method, any_value(verdicts.reasons) AS reasons, "
        "any_value(verdicts.judged_at) AS judged_at FROM conversions LEFT JOIN verdicts "
        "ON verdicts.conversion_id = conversions.conversion_id WHERE conversions.conversion_id = ?",
        [conversion_id],
    )
    return TraceNode("conversion before", conversion_id, _facts(row, "method", "reasons", "judged_at"))


def _lost_sites(value: object) -> list[str]:
    """Returns each site without a home with the reason."""
    sites = json.loads(value) if isinstance(value, str) else []
    return [f"{site['site']} ({site['reason']})" for site in sites or []]


def _plan_node(reader: Reader, plan_id: str) -> TraceNode:
    rows = reader.rows("SELECT * FROM plans WHERE plan_id = ?", [plan_id])
    columns = ("method", "settings", "source", "source_fingerprint", "target", "target_fingerprint", "sites", "path")
    return TraceNode("plan", plan_id, _facts(rows[0], *columns) if rows else ())


def _adapter_node(reader: Reader, entry_key: str, weights_sha256: str | None) -> TraceNode:
    file = _file_node(reader, entry_key)
    rows = reader.rows(
        "SELECT * FROM adapters WHERE entry_key = ? AND (? IS NULL OR weights_sha256 = ?) "
        "ORDER BY read_at DESC LIMIT 1",
        [entry_key, weights_sha256, weights_sha256],
    )
    if not rows:
        return file
    columns = ("dialect", "algorithms", "ranks", "dtype", "sites", "base", "evidence", "unmappable_tensors")
    return TraceNode("adapter", f"weights {rows[0]['weights_sha256']}", _facts(rows[0], *columns), (file,))


def _file_node(reader: Reader, entry_key: str) -> TraceNode:
    entry = _entry_node(reader, entry_key)
    rows = reader.rows("SELECT * FROM files WHERE entry_key = ? ORDER BY role DESC, sha256", [entry_key])
    for row in rows:
        entry = TraceNode("stored file", str(row["sha256"]), _facts(row, "role", "size_bytes", "stored_at"), (entry,))
    return entry


def _entry_node(reader: Reader, entry_key: str) -> TraceNode:
    rows = reader.rows("SELECT * FROM entries WHERE entry_key = ?", [entry_key])
    columns = ("name", "origin", "creator", "licence", "allow_derivatives", "base_label", "reasons", "notes", "seen_at")
    return TraceNode("entry", entry_key, _facts(rows[0], *columns) if rows else ())


def _facts(row: Row, *columns: str) -> tuple[tuple[str, object], ...]:
    return tuple((column.replace("_", " "), _value(row[column])) for column in columns)


def _value(value: object) -> object:
    """Returns a value of the ledger as plain JSON: JSON columns parsed, times as ISO text."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return cast("object", json.loads(value))
        except ValueError:
            return value
    return value if value is None or isinstance(value, bool | int | float | str | list) else str(value)


def _plain(value: object) -> str:
    if isinstance(value, list):
        return "; ".join(_plain(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key}={_plain(item)}" for key, item in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
