"""Gets the plans of one base pair ready: the method's own, and those of the controls that it is scored beside.

A plan is compiled site by site into a folder of pieces beside it, so that a large base does not have to fit into
memory, and a compilation that was killed is gone on with by the next run.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypedDict

from lorax.base_pair import similarity
from lorax.checkpoint import Checkpoint
from lorax.method import Setting
from lorax.plan import read_description
from lorax.prepare import key_for, prepare_plan_file
from lorax.probe import ProbeSettings
from tasks.bases import BaseFolder, has_weights, open_base, why_not_runnable
from tasks.crash_points import AFTER_PLAN_SAVED, WHILE_COMPILING, crash_point
from tasks.device import device
from tasks.leftovers import sweep_plans
from tasks.ticks import tick

CONTROLS = ("copy", "random")


class PreparedPlan(TypedDict):
    """A plan on disk. `seconds` is what it took to compile, 0 where it was found."""

    plan_id: str
    key: str
    path: str
    method: str
    settings: dict[str, Setting]
    source: str
    target: str
    source_fingerprint: str
    target_fingerprint: str
    sites: int
    planned_sites: int
    seconds: float


class PreparedPair(TypedDict):
    """Plans by method, and the file that holds how alike the two bases are at each site.

    `not_runnable` says of bases that cannot be run why not. Where there is one nothing can be scored, so there are no
    controls to score beside. `similarity` is empty where a base is known by name alone.
    """

    source: str
    target: str
    method: str
    plans: dict[str, PreparedPlan]
    similarity: str
    not_runnable: dict[str, str]


def prepare_pair(
    *,
    source: BaseFolder,
    target: BaseFolder,
    method: str,
    settings: Mapping[str, Setting],
    probe: Mapping[str, Any],
    plans: str,
) -> PreparedPair:
    """Returns the plans of a pair, compiling those that are not in the folder `plans` yet.

    Raises lorax.errors.Stop for an unknown method or setting, or a base that does not open.
    """
    bases = (open_base(source), open_base(target))
    unfit = {base.base.name: why for base in bases if (why := why_not_runnable(base))}
    folder = Path(plans)
    ready: dict[str, PreparedPlan] = {}
    for name, chosen in {**{control: {} for control in CONTROLS if not unfit}, method: settings}.items():
        ready[name] = find_or_compile(bases, method=name, settings=chosen, probe=probe_settings(probe), folder=folder)
        tick("plan")
    sweep_plans(folder)
    return PreparedPair(
        source=source["name"],
        target=target["name"],
        method=method,
        plans=ready,
        similarity=str(_similarity(bases, folder)) if all(map(has_weights, bases)) else "",
        not_runnable=unfit,
    )


def find_or_compile(
    bases: Sequence[Checkpoint],
    *,
    method: str,
    settings: Mapping[str, Setting],
    probe: ProbeSettings,
    folder: Path,
) -> PreparedPlan:
    """Returns the plan with the key of these arguments: the one in the folder's index, else a newly compiled one."""
    source, target = bases
    key = key_for(source, target, method=method, settings=settings, probe=probe)
    found = find_plan(folder, key)
    if found is not None:  # perhaps compiled by a migration that calls the same bases by other names
        return PreparedPlan(**{**found, "source": source.base.name, "target": target.base.name})
    began = time.monotonic()
    path = prepare_plan_file(
        folder,
        source,
        target,
        method=method,
        settings=settings,
        probe=probe,
        device=device(),
        progress=_dying_on_demand,
    )
    crash_point(AFTER_PLAN_SAVED)
    said = read_description(path)
    prepared = PreparedPlan(
        plan_id=path.stem,
        key=key,
        path=str(path),
        method=method,
        settings=said["settings"],
        source=source.base.name,
        target=target.base.name,
        source_fingerprint=source.base.fingerprint,
        target_fingerprint=target.base.fingerprint,
        sites=len(said["sites"]),
        planned_sites=sum("reason" not in site for site in said["sites"]),
        seconds=round(time.monotonic() - began, 3),
    )
    _replace(_index(folder, key), prepared)
    return prepared


def _dying_on_demand(stage: str, done: int, total: int) -> None:
    """Passes the crash point that lies between the first site of a plan and its last."""
    if stage == "compile" and 0 < done < total:
        crash_point(WHILE_COMPILING)


def find_plan(folder: Path, key: str) -> PreparedPlan | None:
    """Returns the plan that the index has under a key, where its file is still there; else None."""
    try:
        found: PreparedPlan = json.loads(_index(folder, key).read_bytes())
    except (OSError, ValueError):
        return None
    path = folder / f"{found['plan_id']}.safetensors"
    return PreparedPlan(**{**found, "path": str(path), "seconds": 0.0}) if path.is_file() else None


def probe_settings(values: Mapping[str, Any]) -> ProbeSettings:
    """Returns the probe that the plain values of a settings file's table [score] describe."""
    known = {field.name for field in fields(ProbeSettings)}
    chosen = {key: value for key, value in values.items() if key in known}
    plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in chosen.items()}
    return ProbeSettings(**plain)


def _similarity(bases: Sequence[Checkpoint], folder: Path) -> Path:
    """Returns the file with the likeness of two bases per site, measuring it once per pair of fingerprints."""
    source, target = bases
    path = folder / "similarity" / f"{source.base.fingerprint[:32]}-{target.base.fingerprint[:32]}.json"
    if not path.is_file():
        _replace(path, [asdict(site) for site in similarity(source, target)])
    return path


def _index(folder: Path, key: str) -> Path:
    return folder / "by-key" / f"{key}.json"


def _replace(path: Path, values: object) -> None:
    """Writes JSON by one rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(values))
    draft.replace(path)
