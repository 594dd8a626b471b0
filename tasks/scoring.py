"""Scores a shard of conversions beside their controls, judges them, and draws their before/after grids."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import lorax
from lorax.adapter import Adapter
from lorax.base_model import BaseModel
from lorax.checkpoint import Checkpoint
from lorax.convert import convert_adapters
from lorax.errors import Refused, Unsupported
from lorax.gate import GateSettings, Verdict, effective, judge
from lorax.judging import Asked, score_and_judge
from lorax.lowering import lower_adapter
from lorax.read import AdapterFiles
from lorax.score import ScoreBench
from lorax.score_card import ScoreCard
from lorax.scorer import Figure
from lorax.weight_figures import plan_matches, weight_figures
from lorax.weight_file import sha256_file
from tasks.bases import BaseFolder, candidates, open_base
from tasks.benches import ScoreTask, pool_of
from tasks.border import Ended, attempt
from tasks.conversion import staged_files
from tasks.crash_points import AFTER_SCORING, crash_point
from tasks.device import device
from tasks.harness import harness_figures, with_harness
from tasks.picture import save_grid
from tasks.planning import CONTROLS, PreparedPair
from tasks.plans import open_plan
from tasks.reading import read_stored
from tasks.single_score import read_parts
from tasks.survey import FoundFile
from tasks.ticks import tick

GRID_COLUMNS = 5


class UnreadableConversionError(Exception):
    """A converted file is refused by our own reader: a defect of the writer, not of the adapter."""


class ScoreItem(TypedDict):
    """A staged conversion, and the source adapter that it came from.

    card: figures of an earlier run, if any; refreshed: whether it has been gone on from what the pair's plan gave.
    """

    entry_key: str
    entry: dict[str, Any]
    files: list[FoundFile]
    conversion_id: str
    card: dict[str, Any] | None
    refreshed: NotRequired[bool]


class Scored(TypedDict):
    """One conversion after scoring. `scored` is None where the figures of an earlier run were used."""

    entry_key: str
    conversion_id: str
    scored: dict[str, Any] | None
    judged: dict[str, Any] | None
    ended: Ended | None


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """What all conversions of a shard share."""

    pair: PreparedPair
    known: Sequence[BaseModel]
    source: Checkpoint
    target_base: Checkpoint
    folders: tuple[str, str]
    probe: Mapping[str, Any]
    task: ScoreTask
    gate: GateSettings
    conversions: Path
    images: Path


def score_shard(
    items: Sequence[ScoreItem],
    *,
    pair: PreparedPair,
    bases: Sequence[BaseFolder],
    probe: Mapping[str, Any],
    gate: Mapping[str, Any],
    conversions: str,
    images: str,
) -> list[Scored]:
    """Returns one record per conversion, the verdict among it."""
    folders = {base["name"]: base for base in bases}
    target = open_base(folders[pair["target"]])
    work = _Work(
        pair=pair,
        known=candidates(bases),
        source=open_base(folders[pair["source"]]),
        target_base=target,
        folders=(folders[pair["source"]]["path"], folders[pair["target"]]["path"]),
        probe=probe,
        task=ScoreTask.of(probe),
        gate=gate_for(gate, target.base),
        conversions=Path(conversions),
        images=Path(images),
    )
    return [_score(work, item) for item in items]


def gate_for(values: Mapping[str, Any], target: BaseModel) -> GateSettings:
    """Returns the thresholds of a migration for a target: those of its family, then those for all."""
    common = {name: value for name, value in values.items() if name != "families"}
    special = values.get("families", {}).get(target.family, {})
    return GateSettings(**{**common, **{name: value for name, value in special.items() if value not in (None, {})}})


def score_key(pair: PreparedPair, *, probe: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a score depends on besides the conversion, as plain JSON values: equal keys, equal figures."""
    texts = {name: str(probe[name]) for name in ("text", "predict", "questions") if probe.get(name)}
    return {
        "probe": {name: list(value) if isinstance(value, tuple) else value for name, value in probe.items()},
        "texts": {name: sha256_file(Path(text)) for name, text in texts.items() if Path(text).is_file()},
        "controls": {name: pair["plans"][name]["plan_id"] for name in CONTROLS},
        "version": lorax.__version__,
    }


def _score(work: _Work, item: ScoreItem) -> Scored:
    known = None if item["card"] is None else attempt(lambda: _known(work, item["card"] or {}))
    if isinstance(known, Ended):
        return _record(item, why=known)
    if known is not None:
        return _record(item, judged=_judged(known, work.gate, item["card"] or {}))
    fresh = attempt(lambda: _measure(work, item))
    if isinstance(fresh, Ended):
        return _record(item, why=fresh)
    body, verdict = fresh
    return _record(item, scored=body, judged=_judged(verdict, work.gate, body))


def _known(work: _Work, body: Mapping[str, Any]) -> Verdict | None:
    """Returns the verdict on figures of an earlier run; None where more samples may still make it certain."""
    card = ScoreCard.from_values(body)
    verdict = judge(card, work.gate)
    most = work.task.probe.samples << work.task.settings.rounds
    return None if verdict.outcome == "uncertain" and card.samples < most else verdict


def _judged(verdict: Verdict, gate: GateSettings, card: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the body of a `judged` event, with the thresholds that applied."""
    return {
        "passed": verdict.passed,
        "outcome": verdict.outcome,
        "reasons": [list(reason) for reason in verdict.reasons],
        "gate": dataclasses.asdict(effective(gate, str(card.get("kind", "")))),
    }


def _measure(work: _Work, item: ScoreItem) -> tuple[dict[str, Any], Verdict]:
    """Returns the body of a `scored` event, and the verdict; the picture is written on the way."""
    began = time.monotonic()
    adapter = _with_words(read_stored(item["files"], item["entry"], work.known), item["entry"])
    own = {"converted": _read_back(work, item)}
    moved = lower_adapter(adapter, work.source.weight).adapter
    others = {name: _control(work, name, moved) for name in CONTROLS}
    rivals = {name: other for name, other in others.items() if other is not None}
    plan = work.pair["plans"][work.pair["method"]]
    fingerprints = (plan["source_fingerprint"], plan["target_fingerprint"])
    shown = {name: rivals[name] for name in ("copy",) if name in rivals} | own
    examples = tuple(item["entry"].get("prompts") or ())
    with pool_of(work.folders, device()).lent(work.task) as bench:
        answered = harness_figures(bench, adapter, own)
        exact = {**_exact(work, item, moved, own["converted"]), **answered.get("converted", {})}
        card, verdict = score_and_judge(
            bench, Asked(adapter, {**own, **rivals}, examples, fingerprints, exact), work.gate
        )
        card = with_harness(card, answered)
        picture = _draw(work, item, bench, adapter, shown) if bench.draws_pictures else {}
    crash_point(AFTER_SCORING)
    tick("score")
    body = {
        **json.loads(card.to_json()),
        "score_key": score_key(work.pair, probe=work.probe),
        **picture,
        "seconds": round(time.monotonic() - began, 3),
    }
    return body, verdict


def _exact(work: _Work, item: ScoreItem, adapter: Adapter, converted: Adapter) -> dict[str, Figure]:
    """Returns the figures that come from weights alone. adapter: lowered. What a plan foresaw is not of a refresh."""
    plan = open_plan(work.pair["plans"][work.pair["method"]]["path"])
    made_by = None if item.get("refreshed") else plan
    return weight_figures(
        adapter,
        converted,
        source=work.source,
        target=work.target_base,
        matches=plan_matches(plan),
        plan=made_by,
    )


def _draw(
    work: _Work, item: ScoreItem, bench: ScoreBench, adapter: Adapter, shown: Mapping[str, Adapter]
) -> dict[str, Any]:
    """Draws the before/after grid of a conversion, and returns what the `scored` event says about it."""
    settings = work.task.probe
    few = dataclasses.replace(settings, samples=min(GRID_COLUMNS, len(settings.prompts) or GRID_COLUMNS))
    prompts = bench.words(adapter, (), few).prompts
    rows = bench.images(adapter, shown, prompts=prompts)
    path = work.images / f"{item['conversion_id']}.png"
    save_grid(path, {label: row.numpy() for label, row in rows.items()})
    return {
        "images": f"{work.images.name}/{path.name}",
        "image_rows": list(rows),
        "image_prompts": list(prompts),
    }


def _with_words(adapter: Adapter, entry: Mapping[str, Any]) -> Adapter:
    """Returns the adapter with the catalogue's trigger words where it has some: those are the ones people type."""
    words = tuple(entry.get("trigger_words") or ())
    return dataclasses.replace(adapter, trigger_words=words) if words else adapter


def _read_back(work: _Work, item: ScoreItem) -> Adapter:
    """Returns the conversion as a user of the published file will get it."""
    folder = staged_files(work.conversions, item["conversion_id"])
    files = [
        AdapterFiles(weights=path, config=next(path.parent.glob("*.json"), None), name=path.name)
        for path in sorted(folder.rglob("*.safetensors"))
    ]
    try:
        return read_parts(files, work.target_base.base)
    except Refused as problem:
        raise UnreadableConversionError(f"{folder}: what was written cannot be read back: {problem}") from problem


def _control(work: _Work, name: str, adapter: Adapter) -> Adapter | None:
    plan = open_plan(work.pair["plans"][name]["path"])
    [result] = convert_adapters(plan, [adapter], target=work.target_base.base)
    return None if isinstance(result, Unsupported) else result.adapter


def _record(
    item: ScoreItem,
    *,
    scored: dict[str, Any] | None = None,
    judged: dict[str, Any] | None = None,
    why: Ended | None = None,
) -> Scored:
    return Scored(
        entry_key=item["entry_key"], conversion_id=item["conversion_id"], scored=scored, judged=judged, ended=why
    )
