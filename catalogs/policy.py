"""What may be converted and published at all, decided from what the catalogue says and from nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from catalogs.entry import CatalogEntry

Reason = tuple[str, str]

ADAPTER_KINDS = frozenset({"", "lora", "locon", "lycoris", "loha", "lokr", "dora", "adapter"})
"""The kinds, as catalogues call them in small letters, that hold adapters. "" is a catalogue that does not say."""

NO_DERIVATIVES_LICENCES = ("cc-by-nd", "cc-by-nc-nd", "all-rights-reserved", "proprietary")
"""Beginnings of the names of licences that forbid derivatives whatever else the catalogue says."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What one migration allows.

    `licences_allowed`: names that may be converted; None allows every licence that does not forbid derivatives.
    `licence_unknown`: "skip" leaves such entries alone, "convert" converts them but never publishes, "publish" treats
    them like one's own work. `require_derivatives`: False converts what forbids derivatives, for private use: it is
    still never published. `opt_out`: patterns (`*`, `?`) of the entry ids, names, creators, origins or sha256 that are
    left alone.
    """

    licences_allowed: tuple[str, ...] | None = None
    licence_unknown: Literal["skip", "convert", "publish"] = "convert"
    require_derivatives: bool = True
    opt_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """What may be done with an entry, and every reason why something may not, as (code, text)."""

    convert: bool
    publish: bool
    reasons: tuple[Reason, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Returns the decision as plain JSON values."""
        return {"convert": self.convert, "publish": self.publish, "reasons": [list(reason) for reason in self.reasons]}


def decide(entry: CatalogEntry, policy: Policy, *, twins: Sequence[CatalogEntry] = ()) -> Decision:
    """Decides what may be done with an entry. Pure: equal arguments give equal decisions.

    `twins` are entries known to hold the same bytes: what one of them forbids is forbidden for all, so that a copy
    without its sidecar does not wash the terms away. Terms that only a twin states count as known.
    """
    blocks: list[Reason] = []
    private: list[Reason] = []
    for one in (entry, *twins):
        seen_at = "" if one is entry else f" (said of the same bytes at {one.entry_id})"
        blocks += [(code, text + seen_at) for code, text in _hard_blocks(one, policy)]
        (blocks if policy.require_derivatives else private).extend(
            (code, text + seen_at) for code, text in _derivative_blocks(one)
        )
        blocks += [(code, text + seen_at) for code, text in _licence_blocks(one, policy)]
    if not any(one.terms.is_known for one in (entry, *twins)):
        unknown = ("licence-unknown", "no sidecar states a licence or whether derivatives are allowed")
        if policy.licence_unknown == "skip":
            blocks.append(unknown)
        elif policy.licence_unknown == "convert":
            private.append(unknown)
    reasons = tuple(dict.fromkeys(blocks + private))
    return Decision(convert=not blocks, publish=not reasons, reasons=reasons)


def originals(contents: Mapping[str, str]) -> dict[str, str]:
    """Returns, for each entry id, the entry id that stands for its bytes: the first in sorted order with that sha256.

    `contents` maps entry ids to the sha256 of their content. An entry that maps to itself is an original, every other
    one a duplicate. Pure, and independent of the order in which the entries were seen.
    """
    first: dict[str, str] = {}
    for entry_id in sorted(contents):
        first.setdefault(contents[entry_id], entry_id)
    return {entry_id: first[sha256] for entry_id, sha256 in contents.items()}


def _hard_blocks(entry: CatalogEntry, policy: Policy) -> list[Reason]:
    """What no setting opens."""
    blocks: list[Reason] = []
    if entry.kind.casefold() not in ADAPTER_KINDS:
        blocks.append(("not-an-adapter", f"the catalogue calls it a {entry.kind!r}"))
    if entry.real_person:
        blocks.append(("real-person", "the catalogue marks it as depicting a real person"))
    if entry.minor:
        blocks.append(("minor", "the catalogue marks it as depicting a minor"))
    if entry.gated:
        blocks.append(("gated", "the catalogue restricts who may download it"))
    if entry.opt_out:
        blocks.append(("opt-out", "its creator has withdrawn it or asks not to convert it"))
    pattern = _matching_pattern(entry, policy.opt_out)
    if pattern:
        blocks.append(("opt-out", f"it matches {pattern!r} of the opt-out list"))
    return blocks


def _derivative_blocks(entry: CatalogEntry) -> list[Reason]:
    licence = (entry.terms.licence or "").casefold().replace("_", "-").replace(" ", "-")
    if entry.terms.allow_derivatives is False:
        return [("no-derivatives", "its sidecar says that derivatives are not allowed")]
    if licence.startswith(NO_DERIVATIVES_LICENCES):
        return [("no-derivatives", f"its licence {entry.terms.licence!r} does not allow derivatives")]
    return []


def _licence_blocks(entry: CatalogEntry, policy: Policy) -> list[Reason]:
    licence = entry.terms.licence
    if licence is None or policy.licences_allowed is None:
        return []
    if licence.casefold() in {name.casefold() for name in policy.licences_allowed}:
        return []
    allowed = ", ".join(policy.licences_allowed) or "none at all"
    return [("licence-forbids", f"its licence {licence!r} is not among the allowed ones: {allowed}")]


def _matching_pattern(entry: CatalogEntry, patterns: Sequence[str]) -> str | None:
    words = [entry.entry_id, entry.name, entry.origin, entry.creator or "", entry.declared_sha256 or ""]
    for pattern in patterns:
        if any(fnmatchcase(word.casefold(), pattern.casefold()) for word in words if word):
            return pattern
    return None
