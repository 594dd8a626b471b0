"""Converts a shard of adapters with one plan; each result is staged in a folder that appears by one rename.

<conversions>/<conversion_id>/files/…           the converted adapter, as it will be published
<conversions>/<conversion_id>/conversion.json   what was measured on the way; written last
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

from catalogs.store import sync_folder
from lorax.adapter import Adapter
from lorax.base_model import BaseModel
from lorax.checkpoint import Checkpoint
from lorax.convert import Conversion, conversion_id, convert_adapters, norm_shares
from lorax.errors import Unsupported
from lorax.gains import SplitAdapter, carried_gains, split_gains, with_gains
from lorax.loaded_file import Allocate
from lorax.lowering import LoweredAdapter, lower_adapter
from lorax.plan import Plan
from lorax.streaming import Done, streamed
from lorax.write import dialect_for, write_adapter_files
from tasks.bases import BaseFolder, candidates, open_base
from tasks.border import Ended, attempt
from tasks.crash_points import AFTER_CONVERSION_STAGED, crash_point
from tasks.planning import PreparedPlan
from tasks.plans import open_plan
from tasks.reading import adapter_id, read_stored
from tasks.survey import FoundFile
from tasks.ticks import tick

FILES = "files"
RECORD = "conversion.json"


class ConvertItem(TypedDict):
    """An adapter to convert: its stored files and the catalogue's words about it."""

    entry_key: str
    entry: dict[str, Any]
    files: list[FoundFile]


class Converted(TypedDict):
    """One entry after conversion: where its result is staged and what it is, or why it ended."""

    entry_key: str
    conversion_id: str | None
    body: dict[str, Any] | None
    ended: Ended | None


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """What all adapters of a shard share."""

    plan: Plan
    method: str
    source: Checkpoint
    target: Checkpoint
    folder: Path
    dialect: str | None

    def spoken(self, adapter: Adapter) -> str:
        """Names the dialect that an adapter's conversion is written in."""
        return self.dialect or dialect_for(adapter)


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """An adapter that is ready to be converted, the gains that wait for its factors, and the id of its conversion."""

    lowered: LoweredAdapter
    split: SplitAdapter
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A conversion that is to be staged: its id, how it came about, and what its files are written in.

    bases: source and target, under the names that they have in the migration.
    """

    name: str
    conversion: Conversion
    lowered: LoweredAdapter
    plan: Plan
    method: str
    bases: tuple[BaseModel, BaseModel]
    dialect: str


def convert_shard(
    items: Sequence[ConvertItem],
    *,
    plan: PreparedPlan,
    bases: Sequence[BaseFolder],
    conversions: str,
    dialect: str | None = None,
) -> list[Converted]:
    """Returns one record per adapter; those staged by an earlier run are found, not made again.

    `bases` are all of the migration's; `dialect` is what is written, None for the one that each adapter came in.
    """
    known = candidates(bases)
    opened = {base["name"]: open_base(base) for base in bases if base["name"] in {plan["source"], plan["target"]}}
    source, target = opened[plan["source"]], opened[plan["target"]]
    work = _Work(open_plan(plan["path"]), plan["method"], source, target, Path(conversions), dialect)
    return list(
        streamed(
            items,
            size=lambda item: sum(file["size"] for file in item["files"]),
            read=partial(_read, work, known),
            compute=partial(_convert_batch, work),
            write=partial(_stage, work),
        )
    )


def _read(work: _Work, known: Sequence[BaseModel], item: ConvertItem, into: Allocate) -> _Waiting | Done[Converted]:
    adapter = attempt(partial(read_stored, item["files"], item["entry"], known, into=into))
    if isinstance(adapter, Ended):
        return Done(_over(item, adapter))
    name = identity(adapter, work.plan, work.target.base, dialect=work.spoken(adapter))
    staged = find_staged(work.folder, name)
    if staged is not None:
        return Done(_done(item, name, staged))
    waiting = attempt(lambda: _lowered(work, adapter, name))
    return Done(_over(item, waiting)) if isinstance(waiting, Ended) else waiting


def _lowered(work: _Work, adapter: Adapter, name: str) -> _Waiting:
    carried = carried_gains(adapter, work.plan, work.spoken(adapter))
    split = split_gains(adapter, carried, work.source.weight)
    return _Waiting(lower_adapter(split.adapter, work.source.weight), split, name)


def identity(adapter: Adapter, plan: Plan, target: BaseModel, *, dialect: str) -> str:
    """Returns the conversion id of an adapter under a plan, written in a dialect and its own element type."""
    dtype = str(adapter.dtype).removeprefix("torch.")
    name = conversion_id(adapter_id(adapter), plan=plan, target=target, dialect=dialect, dtype=dtype)
    return carried_gains(adapter, plan, dialect).named(name)


def find_staged(conversions: Path, name: str) -> dict[str, Any] | None:
    """Returns what was measured when a conversion was staged; None where that has not happened."""
    try:
        body: dict[str, Any] = json.loads((conversions / name / RECORD).read_bytes())
    except (OSError, ValueError):
        return None
    return body


def staged_files(conversions: Path, name: str) -> Path:
    """Returns the folder with the files of a staged conversion."""
    return conversions / name / FILES


def _convert_batch(work: _Work, waiting: Sequence[_Waiting]) -> list[Conversion | Unsupported | Ended]:
    """Converts all at once; should that fail, one by one, so that the culprit ends alone."""
    adapters = [one.lowered.adapter for one in waiting]
    together = attempt(lambda: convert_adapters(work.plan, adapters, target=work.target.base))
    if not isinstance(together, Ended):
        return list(together)
    return [attempt(partial(_convert_alone, work, one)) for one in adapters]


def _convert_alone(work: _Work, adapter: Adapter) -> Conversion | Unsupported:
    return convert_adapters(work.plan, [adapter], target=work.target.base)[0]


def _stage(work: _Work, item: ConvertItem, waiting: _Waiting, result: Conversion | Unsupported | Ended) -> Converted:
    record = _staged(work, item, waiting, result)
    tick("convert")
    return record


def _staged(work: _Work, item: ConvertItem, waiting: _Waiting, result: Conversion | Unsupported | Ended) -> Converted:
    if isinstance(result, Ended):
        return _over(item, result)
    # Another entry of this shard may be the same adapter.
    staged = find_staged(work.folder, waiting.name)
    body = attempt(lambda: _write(work, item, waiting, result)) if staged is None else staged
    crash_point(AFTER_CONVERSION_STAGED)
    return _over(item, body) if isinstance(body, Ended) else _done(item, waiting.name, body)


def _write(work: _Work, item: ConvertItem, waiting: _Waiting, result: Conversion | Unsupported) -> dict[str, Any]:
    """Stages what became of an adapter; returns what `conversion.json` holds."""
    if isinstance(result, Unsupported):
        raise result
    made = Made(
        name=waiting.name,
        conversion=with_gains(result, waiting.split, work.target.weight),
        lowered=waiting.lowered,
        plan=work.plan,
        method=work.method,
        bases=(work.source.base, work.target.base),
        dialect=work.spoken(waiting.lowered.adapter),
    )
    gains = {"gains_carried": len(waiting.split.gains)}
    return stage(made, work.folder, entry_key=item["entry_key"], called=item["entry"]["name"], facts=gains)


def stage(made: Made, conversions: Path, *, entry_key: str, called: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Writes a conversion into a draft folder and gives it its name; returns what `conversion.json` holds.

    called: what the catalogue calls the entry, after which the files are named; facts: what else there is to say.
    """
    began = time.monotonic()
    adapter, moved, (source, target) = made.lowered.adapter, made.conversion, made.bases
    draft = conversions / f".{made.name}.{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)
    (draft / FILES).mkdir(parents=True)
    written = write_adapter_files(
        moved.adapter,
        draft / FILES,
        dialect=made.dialect,
        base=target,
        stem=file_stem(called),
        metadata={
            "lorax_conversion_id": made.name,
            "lorax_method": made.method,
            "lorax_plan": made.plan.plan_id,
        },
    )
    shares = norm_shares(moved)
    body: dict[str, Any] = {
        "entry_key": entry_key,
        "adapter_id": adapter_id(adapter),
        "weights_sha256": adapter.weights_sha256,
        "plan_id": made.plan.plan_id,
        "method": made.method,
        "source": source.name,
        "target": target.name,
        "dialect": made.dialect,
        "weights_sha256_out": written[0].weights_sha256,
        "files": [
            {"name": file.path.relative_to(draft / FILES).as_posix(), "sha256": file.sha256, "size": file.size}
            for file in written
        ],
        "kept_norm": shares.kept,
        "dropped_norm_share": shares.dropped,
        "approximated_norm_share": made.lowered.lost_share() if made.lowered.lost else 0.0,
        "approximated_sites": {str(site): lost for site, lost in made.lowered.lost.items()},
        "gains_carried": 0,
        "sites_total": len(moved.sites),
        "sites_mapped": moved.sites_mapped,
        "dropped_sites": [asdict(site) for site in moved.sites if site.target is None],
        "seconds": round(time.monotonic() - began, 3),
        **facts,
    }
    (draft / RECORD).write_text(json.dumps(body))
    for folder in (draft / FILES, draft):
        sync_folder(folder)
    draft.rename(conversions / made.name)
    return body


def file_stem(name: str) -> str:
    """Returns a file name without extension that any system accepts, from the catalogue's words."""
    plain = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)
    return "-".join(part for part in plain.split("-") if part)[:64] or "adapter"


def _over(item: ConvertItem, why: Ended) -> Converted:
    return Converted(entry_key=item["entry_key"], conversion_id=None, body=None, ended=why)


def _done(item: ConvertItem, name: str, body: dict[str, Any]) -> Converted:
    return Converted(entry_key=item["entry_key"], conversion_id=name, body=body, ended=None)
