"""Converts a shard of adapters with one plan; each result is staged in a folder that appears by one rename.

<conversions>/<conversion_id>/files/…           the converted adapter, as it will be published
<conversions>/<conversion_id>/conversion.json   what was measured on the way; written last
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

from catalogs.store import sha256_file, sync_folder
from lorax.adapter import Adapter
from lorax.base_model import BaseModel
from lorax.checkpoint import Checkpoint
from lorax.convert import Conversion, conversion_id, convert_adapters, norm_shares
from lorax.errors import Unsupported
from lorax.lowering import LoweredAdapter, lower_adapter
from lorax.plan import Plan
from lorax.weight_file import open_weight_file
from lorax.write import dialect_for, write_adapter
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
    target: BaseModel
    folder: Path
    dialect: str | None

    def spoken(self, adapter: Adapter) -> str:
        """Names the dialect that an adapter's conversion is written in."""
        return self.dialect or dialect_for(adapter)


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
    source, target = opened[plan["source"]], opened[plan["target"]].base
    work = _Work(open_plan(plan["path"]), plan["method"], source, target, Path(conversions), dialect)
    records: dict[str, Converted] = {}
    waiting: list[tuple[ConvertItem, LoweredAdapter, str]] = []
    for item in items:
        adapter = attempt(partial(read_stored, item["files"], item["entry"], known))
        if isinstance(adapter, Ended):
            records[item["entry_key"]] = _over(item, adapter)
            continue
        name = identity(adapter, work.plan, target, dialect=work.spoken(adapter))
        staged = find_staged(work.folder, name)
        if staged is not None:
            records[item["entry_key"]] = _done(item, name, staged)
            continue
        lowered = attempt(partial(lower_adapter, adapter, source.weight))
        if isinstance(lowered, Ended):
            records[item["entry_key"]] = _over(item, lowered)
        else:
            waiting.append((item, lowered, name))
    for (item, lowered, name), result in zip(waiting, _convert_batch(work, waiting), strict=True):
        records[item["entry_key"]] = _stage(work, item, lowered, name, result)
        tick("convert")
    return [records[item["entry_key"]] for item in items]


def identity(adapter: Adapter, plan: Plan, target: BaseModel, *, dialect: str) -> str:
    """Returns the conversion id of an adapter under a plan, written in a dialect and its own element type."""
    dtype = str(adapter.dtype).removeprefix("torch.")
    return conversion_id(adapter_id(adapter), plan=plan, target=target, dialect=dialect, dtype=dtype)


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


def _convert_batch(
    work: _Work, waiting: Sequence[tuple[ConvertItem, LoweredAdapter, str]]
) -> list[Conversion | Unsupported | Ended]:
    """Converts all at once; should that fail, one by one, so that the culprit ends alone."""
    adapters = [lowered.adapter for _, lowered, _ in waiting]
    together = attempt(lambda: convert_adapters(work.plan, adapters, target=work.target))
    if not isinstance(together, Ended):
        return list(together)
    return [attempt(partial(_convert_alone, work, one)) for one in adapters]


def _convert_alone(work: _Work, adapter: Adapter) -> Conversion | Unsupported:
    return convert_adapters(work.plan, [adapter], target=work.target)[0]


def _stage(
    work: _Work, item: ConvertItem, lowered: LoweredAdapter, name: str, result: Conversion | Unsupported | Ended
) -> Converted:
    if isinstance(result, Ended):
        return _over(item, result)
    body = attempt(lambda: _write(work, item, lowered, name, result))
    crash_point(AFTER_CONVERSION_STAGED)
    return _over(item, body) if isinstance(body, Ended) else _done(item, name, body)


def _write(
    work: _Work, item: ConvertItem, lowered: LoweredAdapter, name: str, result: Conversion | Unsupported
) -> dict[str, Any]:
    """Writes a conversion into a draft folder and gives it its name; returns what `conversion.json` holds."""
    if isinstance(result, Unsupported):
        raise result
    began = time.monotonic()
    adapter, dialect = lowered.adapter, work.spoken(lowered.adapter)
    draft = work.folder / f".{name}.{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)
    (draft / FILES).mkdir(parents=True)
    paths = write_adapter(
        result.adapter,
        draft / FILES,
        dialect=dialect,
        base=work.target,
        stem=file_stem(item["entry"]["name"]),
        metadata={"lorax_conversion_id": name, "lorax_method": work.method, "lorax_plan": work.plan.plan_id},
    )
    shares = norm_shares(result)
    body: dict[str, Any] = {
        "entry_key": item["entry_key"],
        "adapter_id": adapter_id(adapter),
        "weights_sha256": adapter.weights_sha256,
        "plan_id": work.plan.plan_id,
        "method": work.method,
        "source": work.source.base.name,
        "target": work.target.name,
        "dialect": dialect,
        "weights_sha256_out": open_weight_file(paths[0]).weights_sha256(),
        "files": [
            {
                "name": path.relative_to(draft / FILES).as_posix(),
                "sha256": sha256_file(path),
                "size": path.stat().st_size,
            }
            for path in paths
        ],
        "kept_norm": shares.kept,
        "dropped_norm_share": shares.dropped,
        "approximated_norm_share": lowered.lost_share() if lowered.lost else 0.0,
        "approximated_sites": {str(site): lost for site, lost in lowered.lost.items()},
        "sites_total": len(result.sites),
        "sites_mapped": result.sites_mapped,
        "dropped_sites": [asdict(site) for site in result.sites if site.target is None],
        "seconds": round(time.monotonic() - began, 3),
    }
    (draft / RECORD).write_text(json.dumps(body))
    for folder in (draft / FILES, draft):
        sync_folder(folder)
    draft.rename(work.folder / name)
    return body


def file_stem(name: str) -> str:
    """Returns a file name without extension that any system accepts, from the catalogue's words."""
    plain = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)
    return "-".join(part for part in plain.split("-") if part)[:64] or "adapter"


def _over(item: ConvertItem, why: Ended) -> Converted:
    return Converted(entry_key=item["entry_key"], conversion_id=None, body=None, ended=why)


def _done(item: ConvertItem, name: str, body: dict[str, Any]) -> Converted:
    return Converted(entry_key=item["entry_key"], conversion_id=name, body=body, ended=None)
