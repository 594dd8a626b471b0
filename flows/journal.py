"""What a run asks the ledger, and what it tells it: the flow's only way to remember."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from catalogs.ledger import Fact
from flows.states import FINAL

LATER = "later"
"""Set in an outcome of which the next run has more to do, whatever its state."""


class Rows(Protocol):
    """Anything that answers SQL over the ledger's events: the writer itself, or a reader's copy."""

    def rows(self, sql: str, parameters: Sequence[object] = ()) -> list[dict[str, object]]:
        """Returns rows by column name."""
        ...


@dataclass(frozen=True, slots=True)
class Journal:
    """Questions about earlier work. Each answers from the facts alone, so a killed run leaves nothing to clean up."""

    ledger: Rows

    def was_cut_short(self, migration: str) -> bool:
        """Whether the last run of a migration ended without its report: it was killed."""
        rows = self.ledger.rows(
            "SELECT kind FROM event WHERE run_id IN (SELECT run_id FROM event WHERE kind = 'run_started' "
            "AND (body->>'$.migration') = ?) AND kind IN ('run_started', 'run_finished') "
            "ORDER BY sequence DESC LIMIT 1",
            [migration],
        )
        return [row["kind"] for row in rows] == ["run_started"]

    def outcomes(self) -> dict[str, dict[str, Any]]:
        """Returns the last outcome of every work key, by work key."""
        return {key: body for key, _, body in self._latest("outcome", by="body->>'$.work_key'")}

    def settled(self) -> dict[str, dict[str, Any]]:
        """Returns the last outcome of every work key that needs no more work, by work key."""
        return {key: body for key, body in self.outcomes().items() if body["state"] in FINAL and not body.get(LATER)}

    def entries(self) -> dict[str, dict[str, Any]]:
        """Returns what was last noted about every entry, by entry key."""
        return {subject: body for _, subject, body in self._latest("entry_seen")}

    def standing_adapters(self, entry_keys: Iterable[str]) -> dict[str, str]:
        """Returns adapter ids by the first of the given entries that holds it."""
        wanted = set(entry_keys)
        holders: dict[str, str] = {}
        reads = self._latest("adapter_read", by="body->>'$.entry_key'")
        for key, _, body in sorted(reads):
            if key in wanted:
                holders.setdefault(body["adapter_id"], key)
        return holders

    def plan_ids(self) -> set[str]:
        """Returns the plans that are on record."""
        return {subject for _, subject, _ in self._latest("plan_compiled")}

    def stored_files(self) -> set[tuple[str, str]]:
        """Returns (sha256, entry key) of every file on record."""
        return {(subject, body["entry_key"]) for _, subject, body in self._latest("file_stored", by=_SUBJECT_AND_ENTRY)}

    def read_adapters(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Returns what was read, by (weights sha256, entry key)."""
        reads = self._latest("adapter_read", by=_SUBJECT_AND_ENTRY)
        return {(subject, body["entry_key"]): body for _, subject, body in reads}

    def conversions(self) -> dict[str, dict[str, Any]]:
        """Returns every conversion on record, by conversion id."""
        return {subject: body for _, subject, body in self._latest("converted")}

    def scores(self) -> dict[str, dict[str, Any]]:
        """Returns the last figures of every conversion, by conversion id."""
        return {subject: body for _, subject, body in self._latest("scored")}

    def verdicts(self) -> dict[str, dict[str, Any]]:
        """Returns the last verdict on every conversion, by conversion id."""
        return {subject: body for _, subject, body in self._latest("judged")}

    def publications(self) -> dict[str, dict[str, Any]]:
        """Returns the last confirmed publication of every conversion, by conversion id."""
        return {subject: body for _, subject, body in self._latest("published")}

    def pending(self) -> dict[str, dict[str, Any]]:
        """Returns publications that were intended and not confirmed since, by conversion id."""
        rows = self.ledger.rows(
            "SELECT subject, kind, body FROM event WHERE kind IN ('publication_intended', 'published') "
            "QUALIFY row_number() OVER (PARTITION BY subject ORDER BY sequence DESC) = 1 ORDER BY sequence"
        )
        return {str(row["subject"]): _body(row) for row in rows if row["kind"] == "publication_intended"}

    def _latest(self, kind: str, *, by: str = "subject") -> list[tuple[str, str, dict[str, Any]]]:
        """Returns (group, subject, body) of the last event of a kind in each group."""
        rows = self.ledger.rows(
            f"SELECT {by} AS place, subject, body FROM event WHERE kind = ? "  # noqa: S608 - `by` is a constant of ours
            "QUALIFY row_number() OVER (PARTITION BY place ORDER BY sequence DESC) = 1 ORDER BY sequence",
            [kind],
        )
        return [(str(row["place"]), str(row["subject"]), _body(row)) for row in rows]


_SUBJECT_AND_ENTRY = "subject || ' ' || (body->>'$.entry_key')"


def changed(facts: Iterable[Fact], known: Mapping[str, Mapping[str, Any]]) -> list[Fact]:
    """Returns the facts whose body differs from the known one of the same subject: saying it again adds nothing."""
    return [fact for fact in facts if known.get(fact[1]) != fact[2]]


def _body(row: Mapping[str, object]) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(str(row["body"]))
    return body
