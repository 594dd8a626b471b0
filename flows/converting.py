"""The commands that compile a plan and convert one adapter: `lorax plan` and `lorax convert`."""

from __future__ import annotations

import json
import sys
import tempfile
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from flows.adapter_files import adapter_files, open_bases
from flows.destination import SUFFIX, check_destination, names_a_file, nearest_folder, put
from flows.refreshing import NO_PLAN, REFRESH, Improved, improve
from flows.settings import ScoreTable
from lorax.adapter import Adapter
from lorax.checkpoint import Checkpoint
from lorax.convert import Conversion, SiteReport, conversion_id, convert_adapters, norm_shares
from lorax.errors import Refused, Stop, TryLater, Unsupported
from lorax.gains import NO_GAINS, CarriedGains, carried_gains, split_gains, with_gains
from lorax.loaded_file import fresh_memory
from lorax.lowering import LoweredAdapter, lower_adapter
from lorax.plan import Plan, load_plan, method_named, read_description
from lorax.prepare import Progress as Told
from lorax.prepare import prepare_plan_file
from lorax.probe import ProbeSettings
from lorax.read import AdapterFiles, read_adapter
from lorax.refresh import RefreshSettings
from lorax.weight_file import WrittenFile, sha256_file
from lorax.write import dialect_for, writable_dialect, write_adapter_files
from tasks.device import device
from tasks.planning import probe_settings

TAKES_BUDGET = (REFRESH, "auto")

_WIDTH = 120
_TEXTS = 64
"""Texts that a plan is calibrated on where no probe is given."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Says which plan an adapter is converted by: one that is there, or what to compile one from.

    source beside plan: the folder of the base that the adapter was made for, for updates that depend on its weights.
    budget: seconds that a refresh may take, None for as many steps as it has by itself; given to `auto` it lets that go
    on by a refresh.
    """

    plan: Path | None = None
    source: Path | None = None
    target: Path | None = None
    method: str | None = None
    probe: Path | None = None
    budget: float | None = None

    @property
    def learns(self) -> bool:
        """Tells whether the adapter is refreshed, beyond what a plan does."""
        return self.method == REFRESH or (self.method in TAKES_BUDGET and self.budget is not None)


def make_plan(source: Path, target: Path, *, method: str, probe: Path | None, out: Path, as_json: bool) -> int:
    """Compiles a plan and tells where it is and which sites it reaches; returns the exit status.

    out: a file (*.safetensors), or a folder, in which the plan is named by its sha256. Raises Stop for a wrong call.
    """
    check_destination(out)
    if method == REFRESH:
        raise Stop(NO_PLAN)
    path = _compiled(Recipe(source=source, target=target, method=method, probe=probe), out)
    said = read_description(path)  # the operators of a large base need not fit into memory together
    sites = said["sites"]
    without = Counter(site["reason"] for site in sites if "reason" in site)
    facts = {
        "plan": str(path),
        "plan_id": sha256_file(path),
        "key": said["key"],
        "method": said["method"],
        "settings": said["settings"],
        "source": said["source"]["name"],
        "target": said["target"]["name"],
        "sites": len(sites),
        "planned_sites": len(sites) - without.total(),
        "without_a_plan": dict(sorted(without.items())),
    }
    if as_json:
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
        return 0
    left = "".join(f", {count} left out ({reason})" for reason, count in sorted(without.items()))
    reached = f"{facts['planned_sites']} of {len(sites)} sites"
    sys.stdout.write(f"{facts['method']}, {facts['source']} -> {facts['target']}: {reached}{left}\n{path}\n")
    return 0


def convert(path: Path, recipe: Recipe, *, out: Path, dialect: str | None, as_json: bool) -> int:
    """Converts the adapter at a path and tells what became of its sites; returns the exit status.

    Status 1 for an adapter that cannot be read, moved or said in the dialect. Raises Stop for a wrong call, an existing
    OUT among them; nothing is left behind then.
    """
    _check_recipe(recipe)
    check_destination(out)
    if dialect is not None:
        writable_dialect(dialect)
    files = adapter_files(path)
    try:
        work = _refreshed if recipe.learns else _converted
        with work(files, recipe, out, dialect) as done:
            spoken = dialect or dialect_for(done.adapter)
            written = _write(done, out=out, dialect=spoken, stem=_stem(path, out))
    except (Refused, TryLater) as problem:
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"lorax: {problem} ({problem.reason})", markup=False
        )
        return 1
    except OSError as problem:
        raise Stop(f"{problem.filename or out}: {problem.strerror or problem}") from problem
    facts = _facts(done, spoken, written)
    if as_json:
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
    else:
        _tell(done.result, facts)
    return 0


@dataclass(frozen=True, slots=True, eq=False)
class _Done:
    """An adapter as it was read, as it was lowered, and what became of it by a plan, refreshed or not.

    carried: the sites that kept the gains of DoRA.
    """

    adapter: Adapter
    lowered: LoweredAdapter
    plan: Plan
    result: Conversion
    improved: Improved | None = None
    carried: CarriedGains = NO_GAINS


@contextmanager
def _converted(files: AdapterFiles, recipe: Recipe, out: Path, dialect: str | None) -> Iterator[_Done]:
    """Gives what a plan makes of an adapter; the plan may lie in a file that is gone afterwards."""
    with _plan_of(recipe, out) as plan:
        adapter = read_adapter(files, candidates=[plan.source_base], into=fresh_memory)
        yield _moved(adapter, plan, recipe, dialect or dialect_for(adapter), name=files.name)


def _moved(adapter: Adapter, plan: Plan, recipe: Recipe, dialect: str, *, name: str) -> _Done:
    """An adapter moved by a plan; where both bases are at hand, DoRA stays what it is as far as the plan lets it."""
    source = _source_of(adapter, plan, recipe)
    weight = source.weight if source is not None else None
    carried = carried_gains(adapter, plan, dialect) if recipe.target is not None else NO_GAINS
    split = split_gains(adapter, carried, weight)
    lowered = lower_adapter(split.adapter, weight)
    (result,) = convert_adapters(plan, [lowered.adapter])
    if isinstance(result, Unsupported):
        raise result.at(name)
    if split.gains and recipe.target is not None:
        (target,) = open_bases([recipe.target])
        result = with_gains(result, split, target.weight)
    return _Done(adapter, lowered, plan, result, carried=carried)


@contextmanager
def _refreshed(files: AdapterFiles, recipe: Recipe, _out: Path, _dialect: str | None) -> Iterator[_Done]:
    """Gives what a refresh makes of an adapter."""
    if recipe.source is None or recipe.target is None:
        raise TypeError("a refresh runs two base models")
    settings = RefreshSettings(read_probe(recipe.probe, method=REFRESH, base=recipe.source), seconds=recipe.budget)
    source, target = open_bases([recipe.source, recipe.target])
    adapter = read_adapter(files, candidates=[source.base])
    lowered = lower_adapter(adapter, source.weight)
    with _shown() as told:
        try:
            found = improve((source, target), adapter, lowered.adapter, settings, progress=told)
        except Unsupported as problem:
            raise problem.at(files.name) from None
    yield _Done(adapter, lowered, found.plan, found.conversion, found)


def read_probe(file: Path | None, *, method: str, base: Path) -> ProbeSettings:
    """Returns the probe's settings: a table [probe], or [score] of a migration file; relative paths are its own.

    base: where the source lies. A language model needs no file: it writes the probe's texts itself, beginning as it
    likes. Raises Stop for a method that needs a probe when there is none, and for a file that does not describe one.
    """
    if file is None:
        if method == REFRESH or _writes_text(base):
            return ProbeSettings(prompts=(), samples=_TEXTS)
        if method_named(method).needs != "activations":
            return ProbeSettings(prompts=())
        example = '[probe] with prompts = ["a photograph of a harbour", "a portrait of an old sailor"]'
        raise Stop(f"method {method!r} runs both bases on a probe: give --probe FILE, a TOML file such as {example}")
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
        table = ScoreTable.model_validate(values.get("probe", values.get("score", values)))
    except OSError as problem:
        raise Stop(f"--probe {file}: {problem.strerror or problem}") from problem
    except ValidationError as problem:
        faults = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in problem.errors())
        known = ", ".join(ScoreTable.model_fields)
        raise Stop(f"--probe {file}: {faults}. A table [probe] has {known}") from problem
    except ValueError as problem:
        raise Stop(f"--probe {file}: this is no TOML file ({problem})") from problem
    text = str((file.parent / table.text).absolute()) if table.text else ""
    return probe_settings({**table.model_dump(), "text": text})


def _writes_text(base: Path) -> bool:
    """Tells a folder of transformers from one of diffusers, and from a file."""
    return (base / "config.json").is_file() and not (base / "unet").is_dir()


def _check_recipe(recipe: Recipe) -> None:
    needed = {"--source": recipe.source, "--target": recipe.target, "--method": recipe.method}
    if recipe.plan is None and (missing := [name for name, value in needed.items() if value is None]):
        raise Stop(f"give --plan PLAN, or --source, --target and --method; missing: {', '.join(missing)}")
    if recipe.budget is not None and recipe.method not in TAKES_BUDGET:
        raise Stop(
            f"--budget is for {' and '.join(TAKES_BUDGET)}: other methods take the time they need, once per plan"
        )
    beside = {"--target": recipe.target, "--method": recipe.method, "--probe": recipe.probe}
    if recipe.plan is not None and (surplus := [name for name, value in beside.items() if value is not None]):
        raise Stop(f"--plan says base models and method already; leave out {', '.join(surplus)}")


@contextmanager
def _plan_of(recipe: Recipe, out: Path) -> Iterator[Plan]:
    """Gives the plan that is there, or one compiled for this call alone, on the file system of the output."""
    if recipe.plan is not None:
        yield _opened(recipe.plan)
        return
    with tempfile.TemporaryDirectory(dir=nearest_folder(out), prefix=".lorax-") as scratch:
        yield load_plan(_compiled(recipe, Path(scratch))).on(device())


def _opened(path: Path) -> Plan:
    """A plan file that somebody named. Raises Stop where it cannot be one."""
    try:
        return load_plan(path).on(device())
    except Refused as problem:
        raise Stop(f"--plan {path}: {problem.message}; make a plan with `lorax plan`") from problem


def _compiled(recipe: Recipe, out: Path) -> Path:
    if recipe.source is None or recipe.target is None or recipe.method is None:
        raise TypeError("a plan is compiled from two base models by a method")
    probe = read_probe(recipe.probe, method=recipe.method, base=recipe.source)
    source, target = open_bases([recipe.source, recipe.target])
    with _shown() as told:
        return prepare_plan_file(
            out, source, target, method=recipe.method, settings={}, probe=probe, device=device(), progress=told
        )


@contextmanager
def _shown() -> Iterator[Told]:
    """Shows progress on a terminal, and nothing anywhere else."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def told(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield told


def _source_of(adapter: Adapter, plan: Plan, recipe: Recipe) -> Checkpoint | None:
    """The source base, opened only for updates that depend on its weights."""
    rich = [site for site, update in adapter.updates.items() if update.needs_base]
    if not rich:
        return None
    if recipe.source is None:
        kind = adapter.updates[rich[0]].algorithm
        message = f"{kind} changes depend on the weights of {plan.source}; give its folder: --source FOLDER"
        raise Unsupported("needs-base", message, where=str(rich[0]))
    (source,) = open_bases([recipe.source])
    if source.base.fingerprint != plan.source_fingerprint:
        raise Stop(f"--source {recipe.source}: these are not the weights of {plan.source} that the plan was made for")
    return source


def _stem(path: Path, out: Path) -> str:
    return out.stem if names_a_file(out) else path.resolve().name.removesuffix(SUFFIX)


def _write(done: _Done, *, out: Path, dialect: str, stem: str) -> list[WrittenFile]:
    """Writes beside the destination first: a conversion that fails leaves nothing behind."""
    adapter, plan = done.adapter, done.plan
    dtype = str(adapter.dtype).removeprefix("torch.")
    name = conversion_id(adapter.weights_sha256, plan=plan, target=plan.target_base, dialect=dialect, dtype=dtype)
    name = done.carried.named(name)
    metadata = {"lorax_conversion_id": name, "lorax_method": plan.method, "lorax_plan": plan.plan_id}
    if done.improved is not None:
        metadata |= {"lorax_conversion_id": done.improved.name(name), "lorax_method": REFRESH}
    with tempfile.TemporaryDirectory(dir=nearest_folder(out), prefix=".lorax-") as scratch:
        draft = Path(scratch) / "adapter"
        base = plan.target_base
        files = write_adapter_files(
            done.result.adapter, draft, dialect=dialect, base=base, stem=stem, metadata=metadata
        )
        places = put([file.path for file in files], draft, out)
        return [replace(file, path=place) for file, place in zip(files, places, strict=True)]


def _facts(done: _Done, dialect: str, written: list[WrittenFile]) -> dict[str, Any]:
    result, plan, lowered = done.result, done.plan, done.lowered
    shares = norm_shares(result)
    return {
        "files": [{"path": str(file.path), "sha256": file.sha256} for file in written],
        "plan_id": plan.plan_id,
        "method": plan.method,
        "source": plan.source,
        "target": plan.target,
        "dialect": dialect,
        "scored": False,
        "sites_total": len(result.sites),
        "sites_mapped": result.sites_mapped,
        "kept_norm": shares.kept,
        "dropped_norm_share": shares.dropped,
        "approximated_norm_share": lowered.lost_share() if lowered.lost else 0.0,
        "gains_carried": len(done.carried.homes),
        "sites": [asdict(site) for site in result.sites],
        **(done.improved.facts() if done.improved is not None else {}),
    }


def _tell(result: Conversion, facts: dict[str, Any]) -> None:
    """Prints one line per kind of outcome, then the files."""
    kinds: dict[str, list[SiteReport]] = defaultdict(list)
    for site in result.sites:
        kinds["mapped" if site.target is not None else f"dropped: {site.reason}"].append(site)
    table = Table(box=None, pad_edge=False, header_style="")
    for column, side in (("outcome", "left"), ("sites", "right"), ("norm² of all", "right"), ("norm kept", "right")):
        table.add_column(column, justify="left" if side == "left" else "right")
    total = sum(site.norm**2 for site in result.sites) or 1.0
    for kind, sites in sorted(kinds.items(), reverse=True):
        before = sum(site.norm**2 for site in sites)
        after = sum((site.kept_norm * site.norm) ** 2 for site in sites)
        kept = (after / before) ** 0.5 if before else 0.0
        table.add_row(kind, str(len(sites)), f"{before / total:.1%}", f"{kept:.1%}")
    console = Console(file=sys.stdout, highlight=False, width=_WIDTH)
    console.print(f"{facts['source']} -> {facts['target']} by {facts['method']}", markup=False)
    console.print(table)
    if facts["approximated_norm_share"]:
        console.print(f"{facts['approximated_norm_share']:.2%} of norm² was lost in writing the changes as LoRA")
    if facts["gains_carried"]:
        console.print(f"the gains of DoRA were carried at {facts['gains_carried']} sites, and its rank was kept")
    if "divergence_gain" in facts:
        _tell_refresh(console, facts)
    console.print("Not scored: how much of the effect is left is only known to `lorax score`.", markup=False)
    sys.stdout.write("".join(f"{each['path']}\n" for each in facts["files"]))


def _tell_refresh(console: Console, facts: dict[str, Any]) -> None:
    """Prints what a refresh reached, in one line for each figure."""
    gain, drift = facts["divergence_gain"], facts["drift"]
    end = ", stopped by hand" if facts["stopped_by_hand"] else ""
    console.print(f"refreshed from {facts['started_from']}: {facts['steps']} steps, {facts['seconds']} s{end}")
    console.print(f"divergence gain on held-out samples  {gain['before']:.3f} -> {gain['after']:.3f}")
    console.print(f"drift on neutral samples             {drift['before']:.3f} -> {drift['after']:.3f}")
