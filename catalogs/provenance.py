"""Where a conversion comes from: one record out of the ledger, printed as provenance.json and on the model card.

The document is an in-toto Statement v1 with a SLSA Provenance v1 predicate: `subject` names the released files, and
`resolvedDependencies` everything they were made from. `conversion_id` and `title` beside them are the hub's marker.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, cast

from catalogs.entry import CatalogEntry
from catalogs.errors import NOT_PASSED, NOT_SCORED, Refused, Stop
from catalogs.hash_chain import Head, canonical_json
from catalogs.release import MANIFEST, Release, file_hashes, open_release

BUILD_TYPE: Final = "urn:lorax:lora-transfer:v1"
BUILDER: Final = "urn:lorax:migrate"
CONVERTED: Final = "converted"
"""The candidate of a score card that would be published; the others are what it has to beat."""

Reasons = tuple[tuple[str, str], ...]
Figures = Mapping[str, Mapping[str, Mapping[str, float | None]]]
"""candidate -> figure -> value, low, high."""


class Asked(Protocol):
    """Anything that answers SQL about the ledger: the Ledger itself, or a Reader of it."""

    def rows(self, sql: str, parameters: Sequence[object] = ()) -> list[dict[str, object]]:
        """Answers one question; returns rows by column name."""
        ...


@dataclass(frozen=True, slots=True)
class ConversionRecord:
    """Everything that is known about one conversion, as the ledger has it.

    `dialect` and `dtype` are those of the files that were written. Fingerprints and sha256 are hex; `figures` maps
    candidate, figure to value, low, high; times are ISO, UTC. `refreshed_from` and `refresh` say which conversion a
    refresh went on from and what it did; empty where there was none, and then the plan did all.
    """

    conversion_id: str
    entry: CatalogEntry
    policy_reasons: Reasons
    source_sha256: str
    source_weights_sha256: str
    dialect: str
    dtype: str
    source: str
    target: str
    source_fingerprint: str
    target_fingerprint: str
    method: str
    settings: Mapping[str, object]
    plan_id: str
    weights_sha256: str
    kept_norm: float | None
    dropped_norm_share: float | None
    sites_mapped: int | None
    sites_total: int | None
    figures: Figures
    probe_id: str
    passed: bool | None
    gate_reasons: Reasons
    gate: Mapping[str, object]
    run_id: str
    code_version: str
    versions: Mapping[str, object]
    started_at: str
    converted_at: str
    ledger_head: Head
    refreshed_from: str = ""
    refresh: Mapping[str, object] = field(default_factory=dict)

    @property
    def made_by(self) -> str:
        """The method, and for a refresh what it started from."""
        return f"{self.method} (from {self.refresh.get('started_from')})" if self.refresh else self.method


def conversion_record(ledger: Asked, conversion_id: str) -> ConversionRecord:
    """Gathers the record of one conversion from the ledger. Raises Stop if the ledger holds no such conversion."""
    converted = _latest(ledger, "converted", conversion_id)
    if converted is None:
        raise Stop(f"the ledger holds no conversion {conversion_id}; convert it first")
    body = _body(converted)
    entry_key, run_id = str(body["entry_key"]), str(converted["run_id"])
    seen = _body(_latest(ledger, "entry_seen", entry_key))
    adapter = _body(_adapter_read(ledger, str(body["weights_sha256"]), entry_key))
    plan = _body(_latest(ledger, "plan_compiled", str(body["plan_id"])))
    scored = _body(_latest(ledger, "scored", conversion_id))
    judged = _body(_latest(ledger, "judged", conversion_id))
    started = _latest(ledger, "run_started", run_id)
    head = ledger.rows("SELECT sequence, hash FROM event ORDER BY sequence DESC LIMIT 1")[0]
    return ConversionRecord(
        conversion_id=conversion_id,
        entry=CatalogEntry.from_json(_object(seen.get("entry")) or _unseen(entry_key)),
        policy_reasons=_reasons(_object(seen.get("decision")).get("reasons")),
        source_sha256=str(adapter.get("file_sha256", "")),
        source_weights_sha256=str(body["weights_sha256"]),
        dialect=str(body.get("dialect") or adapter.get("dialect", "")),
        dtype=str(adapter.get("dtype", "")),
        source=str(body.get("source", "")),
        target=str(body.get("target", "")),
        source_fingerprint=str(plan.get("source_fingerprint", "")),
        target_fingerprint=str(plan.get("target_fingerprint", "")),
        method=str(body.get("method", "")),
        settings=_object(plan.get("settings")),
        plan_id=str(body["plan_id"]),
        weights_sha256=str(body.get("weights_sha256_out", "")),
        kept_norm=_number(body.get("kept_norm")),
        dropped_norm_share=_number(body.get("dropped_norm_share")),
        sites_mapped=cast("int | None", body.get("sites_mapped")),
        sites_total=cast("int | None", body.get("sites_total")),
        figures=cast("Figures", _object(scored.get("figures"))),
        probe_id=str(scored.get("probe_id", "")),
        passed=cast("bool | None", judged.get("passed")),
        gate_reasons=_reasons(judged.get("reasons")),
        gate=_object(judged.get("gate")),
        run_id=run_id,
        code_version=str(_body(started).get("code_version", "")),
        versions=_object(_body(started).get("versions")),
        started_at=str(started["recorded_at"]) if started else "",
        converted_at=str(converted["recorded_at"]),
        ledger_head=Head(cast("int", head["sequence"]), str(head["hash"])),
        refreshed_from=str(body.get("refreshed_from") or ""),
        refresh=_object(body.get("refresh")),
    )


def require_publishable(record: ConversionRecord) -> None:
    """Passes a conversion that was measured and that the gate let through.

    Raises Refused: not-scored where there are no figures of it, not-passed where no verdict says that it passed.
    """
    _require(record.conversion_id, record.figures, passed=record.passed)


def require_publishable_release(release: Release) -> None:
    """Passes a release whose own manifest says the same; raises as `require_publishable` does."""
    statement = _object(json.loads((release.folder / MANIFEST).read_bytes()))
    details = _object(_object(statement.get("predicate")).get("runDetails"))
    byproducts = details.get("byproducts")
    said = {one.get("name"): _object(one.get("annotations")) for one in map(_object, _list(byproducts))}
    figures = _object(said.get("score card", {}).get("figures"))
    _require(release.conversion_id, cast("Figures", figures), passed=said.get("verdict", {}).get("passed"))


def _require(conversion_id: str, figures: Figures, *, passed: object) -> None:
    if not figures.get(CONVERTED):
        message = "has no score card; give its migration the folders of both bases, so that it can be measured"
        raise Refused(NOT_SCORED, message, where=f"conversion {conversion_id}")
    if passed is not True:
        message = f"has no verdict that lets it pass (found {passed!r}); run its migration again"
        raise Refused(NOT_PASSED, message, where=f"conversion {conversion_id}")


def provenance_document(record: ConversionRecord, *, title: str, files: Mapping[str, str]) -> dict[str, object]:
    """Returns the content of provenance.json; `files` maps each other file of the release to its sha256."""
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": files[name]}} for name in sorted(files)],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"method": record.method, "settings": record.settings, "gate": record.gate},
                "internalParameters": {"versions": record.versions, "dtype": record.dtype, "dialect": record.dialect},
                "resolvedDependencies": _dependencies(record),
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"lorax": record.code_version}},
                "metadata": {
                    "invocationId": record.run_id,
                    "startedOn": record.started_at,
                    "finishedOn": record.converted_at,
                },
                "byproducts": _byproducts(record),
            },
        },
        "conversion_id": record.conversion_id,
        "title": title,
    }


def write_manifest(folder: Path, record: ConversionRecord, *, title: str) -> Release:
    """Writes provenance.json over the files that lie in a release folder, as its last file, and opens the release."""
    files = {name: sha256 for name, sha256 in file_hashes(folder).items() if name != MANIFEST}
    document = json.loads(canonical_json(provenance_document(record, title=title, files=files)))
    (folder / MANIFEST).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return open_release(folder)


def _dependencies(record: ConversionRecord) -> list[dict[str, object]]:
    entry = record.entry
    return [
        {
            "name": "source adapter",
            "uri": entry.origin,
            "digest": {"sha256": record.source_sha256},
            "annotations": {
                "entry": entry.key,
                "name": entry.name,
                "creator": entry.creator,
                "weights_sha256": record.source_weights_sha256,
                "terms": entry.to_json()["terms"],
                "policy": [list(reason) for reason in record.policy_reasons],
            },
        },
        _dependency("source base", f"urn:lorax:base:{record.source}", record.source_fingerprint),
        _dependency("target base", f"urn:lorax:base:{record.target}", record.target_fingerprint),
        _dependency("plan", f"urn:lorax:plan:{record.method}", record.plan_id),
        {"name": "code", "uri": BUILDER, "annotations": {"version": record.code_version}},
    ]


def _dependency(name: str, uri: str, sha256: str) -> dict[str, object]:
    return {"name": name, "uri": uri} | ({"digest": {"sha256": sha256}} if sha256 else {})


def _byproducts(record: ConversionRecord) -> list[dict[str, object]]:
    """Returns what else came out: the figures it was judged on, the verdict, and the ledger's end at that moment."""
    transfer = {
        "weights_sha256": record.weights_sha256,
        "kept_norm": record.kept_norm,
        "dropped_norm_share": record.dropped_norm_share,
        "sites_mapped": record.sites_mapped,
        "sites_total": record.sites_total,
    }
    verdict = {"passed": record.passed, "reasons": [list(reason) for reason in record.gate_reasons]}
    head = {"sequence": record.ledger_head.sequence, "hash": record.ledger_head.hash}
    return [
        {"name": "transfer", "annotations": transfer},
        {"name": "score card", "annotations": {"probe_id": record.probe_id, "figures": record.figures}},
        {"name": "verdict", "annotations": verdict},
        *_refresh(record),
        {"name": "ledger", "annotations": head},
    ]


def _refresh(record: ConversionRecord) -> list[dict[str, object]]:
    """Returns what was learnt beyond the plan; nothing where nothing was."""
    if not record.refresh:
        return []
    return [{"name": "refresh", "annotations": {"refreshed_from": record.refreshed_from, **record.refresh}}]


def _latest(ledger: Asked, kind: str, subject: str) -> dict[str, object] | None:
    rows = ledger.rows(
        "SELECT recorded_at, run_id, body FROM event WHERE kind = ? AND subject = ? ORDER BY sequence DESC LIMIT 1",
        [kind, subject],
    )
    return rows[0] if rows else None


def _adapter_read(ledger: Asked, weights_sha256: str, entry_key: str) -> dict[str, object] | None:
    """Returns the reading of these weights from this entry's own file: other files may hold the same tensors."""
    rows = ledger.rows(
        "SELECT body FROM event WHERE kind = 'adapter_read' AND subject = ? "
        "ORDER BY ((body->>'$.entry_key') = ?) DESC, sequence DESC LIMIT 1",
        [weights_sha256, entry_key],
    )
    return rows[0] if rows else None


def _body(row: Mapping[str, object] | None) -> Mapping[str, object]:
    return cast("Mapping[str, object]", json.loads(str(row["body"]))) if row else {}


def _unseen(entry_key: str) -> Mapping[str, object]:
    catalogue, _, entry_id = entry_key.partition(":")
    return {"catalogue": catalogue, "entry_id": entry_id, "name": entry_id, "weights": ""}


def _object(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}


def _list(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else []


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _reasons(value: object) -> Reasons:
    pairs = value if isinstance(value, list) else []
    return tuple((str(pair[0]), str(pair[1])) for pair in pairs)
