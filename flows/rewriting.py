"""The command that writes the same adapter in another tool's spelling: `lorax rewrite`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from flows.adapter_files import adapter_files, open_bases
from flows.destination import SUFFIX, check_destination, names_a_file, nearest_folder, put
from lorax.adapter import Adapter, LowRank, Site, Update
from lorax.base_model import BaseModel
from lorax.base_models import known_bases
from lorax.checkpoint import Checkpoint
from lorax.dialect import Dialect
from lorax.dialects import DIALECTS
from lorax.errors import Refused, Stop, TryLater, Unsupported
from lorax.examine import AdapterFiles, examine
from lorax.identify import identify
from lorax.lowering import EXACT_RANK, lower
from lorax.read import assemble
from lorax.write import writable_dialect, write_adapter


@dataclass(frozen=True, slots=True)
class _Lowering:
    """Holds what is needed to say updates as LoRA that a dialect has no word for."""

    dialect: Dialect
    checkpoint: Checkpoint | None
    rank: int | None


def rewrite(path: Path, *, dialect: str, out: Path, base: str | None, rank: int | None) -> int:
    """Writes the adapter at a path in another dialect, for the same base model; returns the exit status.

    base: name of a known base or folder of one, where the file does not tell; its weights are needed for algorithms
    that depend on them when the dialect has no word for those; rank: of what is approximated then, None: nothing is.
    Status 1 for an adapter that cannot be read or said. Raises Stop for a wrong call, an existing OUT among them;
    nothing is left behind then.
    """
    spoken = writable_dialect(dialect)
    check_destination(out)
    files = adapter_files(path)
    checkpoint = open_bases([Path(base)])[0] if base is not None and Path(base).exists() else None
    try:
        adapter, model = _read(files, base, checkpoint)
        stem = out.stem if names_a_file(out) else path.resolve().name.removesuffix(SUFFIX)
        written = _write(adapter, model, _Lowering(spoken, checkpoint, rank), out=out, stem=stem)
    except (Refused, TryLater) as problem:
        advice = "; docs/files.md lists the other dialects" if problem.reason == "unwritable" else ""
        _tell(f"lorax: {problem} ({problem.reason}){advice}")
        return 1
    except OSError as problem:
        raise Stop(f"{problem.filename or out}: {problem.strerror or problem}") from problem
    _tell_left_out(adapter)
    sys.stdout.write("".join(f"{each}\n" for each in written))
    return 0


def _read(files: AdapterFiles, base: str | None, checkpoint: Checkpoint | None) -> tuple[Adapter, BaseModel]:
    candidates = [checkpoint.base] if checkpoint is not None else _known(base)
    try:
        examination = examine(files)
        found = identify(examination, candidates=candidates)
        if found.problem is not None and found.verdict.rivals:
            # The header of what is written names a base, and nothing here may make one up.
            names = " or ".join(f"--base {name}" for name in found.verdict.rivals)
            message = (
                f"{', '.join(found.verdict.rivals)} have all that the adapter patches; say which it is for: {names}"
            )
            raise Unsupported(found.problem.reason, message)
        if found.problem is not None:
            raise found.problem
        return assemble(examination, found.base, found.verdict), found.base
    except (Refused, TryLater) as problem:
        raise problem.at(files.name) from problem


def _known(base: str | None) -> Sequence[BaseModel]:
    bases = known_bases()
    if base is None:
        return bases
    found = [each for each in bases if each.name == base]
    if not found:
        names = ", ".join(each.name for each in bases)
        raise Stop(f"--base {base}: this is neither the folder of a base model nor the name of a known one ({names})")
    return found


def _write(adapter: Adapter, base: BaseModel, lowering: _Lowering, *, out: Path, stem: str) -> list[Path]:
    """Writes beside the destination first: a rewriting that fails leaves nothing behind."""
    strange = [site for site, update in adapter.updates.items() if update.algorithm not in lowering.dialect.says]
    sayable = _lowered(adapter, strange, lowering)
    with tempfile.TemporaryDirectory(dir=nearest_folder(out), prefix=".lorax-") as scratch:
        draft = Path(scratch) / "adapter"
        paths = _draft(sayable, base, lowering, draft, stem)
        return put(paths, draft, out)


def _draft(adapter: Adapter, base: BaseModel, lowering: _Lowering, folder: Path, stem: str) -> Sequence[Path]:
    name = lowering.dialect.name
    try:
        return write_adapter(adapter, folder, dialect=name, base=base, stem=stem, metadata={})
    except Unsupported as problem:
        rich = [site for site, update in adapter.updates.items() if not isinstance(update, LowRank)]
        if problem.reason != "unwritable" or not rich:
            raise
        # The dialect has the word, and yet cannot say this one: a part of a fused weight, a mixture.
        try:
            lowered = _lowered(adapter, rich, lowering)
        except Unsupported:
            raise problem from None
        return write_adapter(lowered, folder, dialect=name, base=base, stem=stem, metadata={})


def _lowered(adapter: Adapter, sites: Iterable[Site], lowering: _Lowering) -> Adapter:
    """The adapter with LoRA at these sites, exact unless a rank was given. Raises Unsupported for what is not exact."""
    updates, lost = dict(adapter.updates), 0.0
    sites = list(sites)
    for site in sites:
        update = updates[site]
        _require_a_way(update, site, len(sites), lowering)
        exact_rank = lowering.rank or EXACT_RANK
        needs = update.needs_base and lowering.checkpoint is not None
        weight = lowering.checkpoint.weight(site) if needs and lowering.checkpoint is not None else None
        lowered = lower(update, weight, rank=exact_rank, exact_rank=exact_rank)
        updates[site], lost = lowered.update, max(lost, lowered.lost)
    if sites:
        _tell_lowering([updates[site] for site in sites], lost)
    return replace(adapter, updates=updates) if sites else adapter


def _tell_lowering(lowered: Sequence[Update], lost: float) -> None:
    rank = max(update.rank for update in lowered if isinstance(update, LowRank))
    said = f"lorax: {len(lowered)} updates are written as LoRA of rank {rank} or less"
    if lost > 0:
        _tell(f"{said}; the largest share of squared norm that one of them lost is {lost:.2%}")
    else:
        _tell(f"{said}, exactly; --rank N gives a smaller file that is an approximation")


def _require_a_way(update: Update, site: Site, count: int, lowering: _Lowering) -> None:
    """Raises Unsupported, saying what to do, for an update that cannot be said as LoRA with what is at hand."""
    exact_rank = getattr(update, "exact_rank", None)
    is_exact = not update.needs_base and exact_rank is not None and exact_rank <= EXACT_RANK
    has_base = not update.needs_base or lowering.checkpoint is not None
    if is_exact or (lowering.rank is not None and has_base):
        return
    kind = f"{lowering.dialect.name} has no word for {update.algorithm}, which {count} updates are, {site} among them"
    exactness = f"is exact at rank {exact_rank} only" if exact_rank is not None else "cannot be exact"
    ways = [] if lowering.rank is not None else ["--rank N to approximate it as LoRA"]
    ways += [] if has_base else ["--base FOLDER, because the change depends on the base model's weights"]
    speaking = [each.name for each in DIALECTS.values() if update.algorithm in each.says and each.pack is not None]
    other = f"; or choose a dialect that has the word: {', '.join(speaking)}" if speaking else ""
    raise Unsupported("unwritable", f"{kind}; as LoRA it {exactness}. Give {' and '.join(ways)}{other}")


def _tell_left_out(adapter: Adapter) -> None:
    reasons: dict[str, list[str]] = {}
    for name, why in adapter.unmappable:
        reasons.setdefault(why, []).append(name)
    for why, names in reasons.items():
        _tell(f"lorax: left out {len(names)} tensors, {names[0]!r} among them: {why}")


def _tell(message: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(message, markup=False)
