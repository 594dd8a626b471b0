"""What a catalogue says about one adapter, in the catalogue's own words. Nothing in here has been checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TypeVar, cast

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of use that a catalogue states; None and () where it says nothing."""

    licence: str | None = None
    allow_derivatives: bool | None = None
    allow_commercial_use: tuple[str, ...] = ()
    allow_no_credit: bool | None = None
    allow_different_licence: bool | None = None

    @property
    def is_known(self) -> bool:
        """Whether the catalogue says anything that answers "may this be converted?"."""
        return self.licence is not None or self.allow_derivatives is not None


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One adapter as its catalogue describes it.

    `entry_id` is stable from scan to scan; `weights`, `config` and `sidecars` are paths or URLs that may change;
    `origin` is what provenance shows to strangers, so it never holds a path of this machine. `notes` tell what was
    wrong with the sidecars.
    """

    catalogue: str
    entry_id: str
    name: str
    weights: str
    config: str | None = None
    sidecars: tuple[str, ...] = ()
    base_label: str | None = None
    terms: Terms = Terms()
    trigger_words: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    declared_sha256: str | None = None
    size_bytes: int = 0
    origin: str = ""
    real_person: bool = False
    minor: bool = False
    gated: bool = False
    opt_out: bool = False
    kind: str = ""
    creator: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The subject of this entry in the ledger: `catalogue:entry_id`."""
        return f"{self.catalogue}:{self.entry_id}"

    def to_json(self) -> dict[str, object]:
        """Returns the entry as plain JSON values; `from_json` gives back an equal entry."""
        return cast("dict[str, object]", _plain(asdict(self)))

    @classmethod
    def from_json(cls, values: Mapping[str, object]) -> CatalogEntry:
        """Builds an entry from `to_json`'s values. Unknown keys are left out, so that older code reads newer rows."""
        return _build(cls, {**values, "terms": _build(Terms, cast("Mapping[str, object]", values.get("terms", {})))})


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _build(kind: type[T], values: Mapping[str, object]) -> T:
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items() if key in known})
