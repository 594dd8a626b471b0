"""Puts adapters that share a base pair together, and says what becomes of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from tasks.border import Ended

OTHER_BASE = "other-base"


class Candidate(TypedDict):
    """An adapter that was read."""

    entry_key: str
    adapter_id: str
    base: str | None


class Groups(TypedDict):
    """Entry keys by the source base of their pair, and the endings of all others."""

    members: dict[str, list[str]]
    ended: dict[str, Ended]


def group_adapters(adapters: Sequence[Candidate], *, sources: Sequence[str], settled: Mapping[str, str]) -> Groups:
    """Returns groups by source base, each sorted by entry key. Pure.

    `settled` maps adapter ids to the entries that stand for them since an earlier run; of several new entries with the
    same adapter the first by key goes on.
    """
    members: dict[str, list[str]] = {source: [] for source in sources}
    over: dict[str, Ended] = {}
    standing = dict(settled)
    for adapter in sorted(adapters, key=lambda one: one["entry_key"]):
        key, base = adapter["entry_key"], adapter["base"]
        original = standing.setdefault(adapter["adapter_id"], key)
        if base not in members:
            over[key] = Ended("unsupported", OTHER_BASE, _other_base(base, sources))
        elif original != key:
            text = f"holds the same tensors and scales as {original.partition(':')[2]}, which stands for both"
            over[key] = Ended("refused", "duplicate", text)
        else:
            members[base].append(key)
    return Groups(members=members, ended=over)


def _other_base(base: str | None, sources: Sequence[str]) -> str:
    return f"made for {base}; the pairs of this migration start from {', '.join(sources)}"
