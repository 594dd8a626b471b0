"""What is in an adapter file, told and not judged: the record behind `lorax inspect`.

Unlike reading, which ends at the first reason to refuse, an inspection goes on and tells all that it can.
"""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from lorax.adapter import Adapter, Update
from lorax.base_model import BaseModel
from lorax.dialect import Container
from lorax.errors import Refused, TryLater
from lorax.examine import AdapterFiles, Examination, examine, open_container, recognise
from lorax.identify import identify
from lorax.metadata import carried, trigger_words
from lorax.placing import Placed, place, require_known
from lorax.read import assemble
from lorax.watched_file import WatchedFile
from lorax.weight_file import ReadLimits, sha256_file

UNKNOWN = "unknown"
"""Dialect, family or version of a file of which that could not be found out."""
UNDECIDED_BASE = "base-undecided"
_DEFAULT_LIMITS = ReadLimits()
_LARGEST = 5


@runtime_checkable
class _Measured(Protocol):
    """Is an update that knows its norm more cheaply than by forming itself."""

    def norm(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Finding:
    """Is one thing about a file's health.

    code: a reason code where reading refuses the file for it ("non-finite", "all-zero"), else one of "alpha-zero",
    "alpha-missing", "mixed-dtypes", "zero-updates"; count: of tensors or modules; example: name of the first.
    """

    code: str
    count: int
    example: str
    message: str


@dataclass(slots=True)
class Inspection:
    """Holds what is told of one adapter; its fields are the keys of `lorax inspect --json`.

    sites: how many weights are patched; vectors: how many biases and norms; saved: how many whole tensors replace parts
    of the model; ranks: those that occur, as stored, sorted; scale: smallest and largest, None when no tensor was read;
    dtypes: element type -> number of tensors; norm: Frobenius norm over all updates that are known without the base,
    None when no tensor was read or none is known; largest: the sites with the largest norms;
    tensors_mapped, _unmappable, _unknown: add up to the tensors that the file lists; unmapped: (tensor name, why);
    problem: (reason code, message) of why the file would be refused, or of what is undecided, None when neither;
    headers_only: no tensor was read, so scale, norm, hashes and the numbers' part of health are not known.
    """

    file: str
    bytes: int = 0
    dialect: str = UNKNOWN
    algorithms: list[str] = field(default_factory=list)
    family: str = UNKNOWN
    version: str = UNKNOWN
    base: str | None = None
    rivals: list[str] = field(default_factory=list)
    evidence: list[str] = field(default_factory=list)
    sites: int = 0
    vectors: int = 0
    saved: int = 0
    ranks: list[int] = field(default_factory=list)
    scale: list[float] | None = None
    dtypes: dict[str, int] = field(default_factory=dict)
    norm: float | None = None
    largest: list[tuple[str, float]] = field(default_factory=list)
    tensors_mapped: int = 0
    tensors_unmappable: int = 0
    tensors_unknown: int = 0
    unmapped: list[tuple[str, str]] = field(default_factory=list)
    health: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    trigger_words: list[str] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    sha256: str | None = None
    weights_sha256: str | None = None
    problem: tuple[str, str] | None = None
    headers_only: bool = False

    @property
    def is_refused(self) -> bool:
        """Tells whether the file cannot be used as it is; a base left open between equal ones is no refusal."""
        return self.problem is not None and self.problem[0] != UNDECIDED_BASE

    def to_json(self) -> dict[str, Any]:
        """Gives the record as plain JSON values."""
        return asdict(self)


def inspect_adapter(
    files: AdapterFiles,
    *,
    candidates: Sequence[BaseModel],
    labels: Sequence[str] = (),
    headers_only: bool = False,
    limits: ReadLimits = _DEFAULT_LIMITS,
) -> Inspection:
    """Tells what is in an adapter file; a file that would be refused is told about as far as possible.

    headers_only: read nothing but the header, whatever the size of the file. Raises nothing that one file can cause:
    also one that cannot be opened, changes while it is read or does not fit into memory ends as the record's problem.
    """
    found = Inspection(file=files.name or str(files.weights), headers_only=headers_only)
    try:
        _inspect(found, files, candidates, labels, limits)
    except (Refused, TryLater) as problem:
        found.problem = (problem.reason, problem.message)
    except OSError as error:
        found.problem = ("unreadable", f"the system does not let the file be read: {error.strerror or error}")
    except (MemoryError, RuntimeError) as error:
        # torch tells of memory that ran out in words only.
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
            raise
        found.problem = ("out-of-memory", "the adapter did not fit into memory")
    return found


def _inspect(
    found: Inspection,
    files: AdapterFiles,
    candidates: Sequence[BaseModel],
    labels: Sequence[str],
    limits: ReadLimits,
) -> None:
    examination = _examined(found, files, limits)
    _tell_header(found, examination)
    if found.headers_only:
        _tell_meaning(found, examination, candidates, labels)
        return
    container = examination.container
    watched = WatchedFile.of(container.file)
    found.sha256, found.weights_sha256 = watched.sha256(), watched.weights_sha256()
    try:
        _tell_meaning(found, replace(examination, container=replace(container, file=watched)), candidates, labels)
    finally:
        watched.read_the_rest()
        found.health += _health(watched, examination)


def _examined(found: Inspection, files: AdapterFiles, limits: ReadLimits) -> Examination:
    try:
        return examine(files, limits=limits)
    except Refused:
        _tell_refused(found, files, limits)
        raise


def _tell_refused(found: Inspection, files: AdapterFiles, limits: ReadLimits) -> None:
    """What can be told of a file that examination ends at: its bytes, perhaps its header, perhaps its dialect."""
    status = files.weights.stat() if files.weights.exists() else None
    if status is not None and stat.S_ISREG(status.st_mode):
        found.bytes = status.st_size
        found.sha256 = None if found.headers_only else sha256_file(files.weights)
    with suppress(Refused):
        container = open_container(files, limits=limits)
        found.weights_sha256 = None if found.headers_only else container.file.weights_sha256()
        _tell_container(found, container)
        dialect, evidence = recognise(container)
        found.dialect, found.evidence = dialect.name, [f"{dialect.name}: {evidence.words}"]


def _tell_meaning(
    found: Inspection, examination: Examination, candidates: Sequence[BaseModel], labels: Sequence[str]
) -> None:
    """What the file means for a base model; the undecided base is told last, for anything else is worse."""
    base = identify(examination, candidates=candidates, labels=labels)
    found.family, found.version = base.verdict.family, base.verdict.version
    found.base, found.rivals = base.verdict.name, list(base.verdict.rivals)
    found.evidence += base.verdict.evidence
    placed = place(examination, base.base)
    _tell_places(found, examination, placed)
    require_known(placed)
    if base.problem is not None and base.problem.reason != UNDECIDED_BASE:
        raise base.problem
    if not found.headers_only:
        _tell_updates(found, assemble(examination, base.base, base.verdict))
    if base.problem is not None:
        raise base.problem


def _tell_container(found: Inspection, container: Container) -> None:
    file = container.file
    found.bytes = file.identity.size
    found.dtypes = dict(Counter(entry.dtype for entry in file.tensors.values()).most_common())
    found.tensors_unknown = len(file.tensors)
    found.trigger_words = list(trigger_words(file.metadata))
    found.metadata = carried(file.metadata)


def _tell_header(found: Inspection, examination: Examination) -> None:
    _tell_container(found, examination.container)
    found.dialect = examination.dialect.name
    found.algorithms = list(examination.algorithms())
    found.evidence = [f"{examination.dialect.name}: {examination.evidence.words}"]
    found.sites = sum(module.algorithm is not None for module in examination.modules)
    found.vectors = sum(len(module.vectors) for module in examination.modules)
    found.saved = len(examination.saved)
    found.ranks = sorted({module.layout.rank for module in examination.modules if module.layout and module.layout.rank})
    found.health += _kinds(examination)


def _kinds(examination: Examination) -> list[Finding]:
    """What shapes and types alone tell about health."""
    modules = [module for module in examination.modules if module.algorithm is not None]
    lacking = [module.spelling for module in modules if "alpha" not in module.entries]
    findings = []
    if lacking and len(lacking) < len(modules):
        message = "modules without an alpha beside others that have one; read as: the rank"
        findings.append(Finding("alpha-missing", len(lacking), lacking[0], message))
    types = {entry.dtype for module in modules for role, entry in module.entries.items() if role != "alpha"}
    if len(types) > 1:
        message = f"several element types: {', '.join(sorted(types))}"
        findings.append(Finding("mixed-dtypes", len(types), min(types), message))
    return findings


def _tell_places(found: Inspection, examination: Examination, placed: Placed) -> None:
    total = len(examination.container.file.tensors)
    found.unmapped = [*placed.left_out, *((name, "belongs to nothing that is known") for name in placed.unknown)]
    found.tensors_unmappable, found.tensors_unknown = len(placed.left_out), len(placed.unknown)
    found.tensors_mapped = total - found.tensors_unmappable - found.tensors_unknown
    patching = [(module, named) for module, named in placed.modules if module.algorithm]
    found.sites = len({part.site for _, named in patching for part in named.parts})
    # Experts that are stacked in one tensor share its rows.
    ranks = {
        module.layout.rank // (len(named.parts) if named.experts else 1) for module, named in patching if module.layout
    }
    found.ranks = sorted(ranks - {0})


def _health(file: WatchedFile, examination: Examination) -> Iterable[Finding]:
    """What the numbers of a file say, once every tensor has been read."""
    spoilt = [name for name in file.tensors if file.spoilt[name]]
    if spoilt:
        yield Finding("non-finite", len(spoilt), spoilt[0], "tensors with NaN or infinite values")
    ranked = (module for module in examination.modules if module.layout and module.layout.rank)
    alphas = [module.entries["alpha"].name for module in ranked if "alpha" in module.entries]
    if zeros := [name for name in alphas if file.numbers.get(name) == 0]:
        message = "alphas of 0; trainers mean the rank by that, and it is read so"
        yield Finding("alpha-zero", len(zeros), zeros[0], message)


def _tell_updates(found: Inspection, adapter: Adapter) -> None:
    scales = adapter.scales().values()
    found.sites = len(adapter.updates)
    found.scale = [min(scales), max(scales)] if scales else None
    found.notes = list(adapter.notes)
    norms = {str(site): _norm(update) for site, update in adapter.updates.items() if not update.needs_base}
    found.norm = sum(norm**2 for norm in norms.values()) ** 0.5 if norms else None
    found.largest = sorted(norms.items(), key=lambda pair: -pair[1])[:_LARGEST]
    if zeros := [site for site, norm in norms.items() if norm == 0]:
        found.health.append(Finding("zero-updates", len(zeros), zeros[0], "updates that change nothing"))


def _norm(update: Update) -> float:
    """The norm of an update that is known without the base."""
    if isinstance(update, _Measured):
        return update.norm()
    return float(update.dense().double().norm())


def to_table(found: Inspection) -> Mapping[str, str]:
    """Gives the record in words, for people, by heading."""
    words = {
        "dialect": found.dialect,
        "algorithms": ", ".join(found.algorithms) or UNKNOWN,
        "family": f"{found.family} {found.version}" if found.version != found.family else found.family,
        "base model": found.base or (f"undecided between {', '.join(found.rivals)}" if found.rivals else UNKNOWN),
        "evidence": "\n".join(found.evidence),
        "undecided": found.problem[1] if found.problem and not found.is_refused else "",
        "sites": _counted(found),
        "ranks": ", ".join(map(str, found.ranks)),
        "scale": "not read" if found.scale is None else " to ".join(f"{each:g}" for each in dict.fromkeys(found.scale)),
        "element types": ", ".join(f"{count} {name}" for name, count in found.dtypes.items()),
        "norm": _norm_in_words(found),
        "largest": "\n".join(f"{norm:.4g} {site}" for site, norm in found.largest),
        "tensors": f"{found.tensors_mapped} mapped, {found.tensors_unmappable} left out, "
        f"{found.tensors_unknown} unknown",
        "left out": "\n".join(_unmapped_in_words(found)),
        "health": "\n".join(_health_in_words(found)),
        "notes": "\n".join(found.notes),
        "trigger words": ", ".join(found.trigger_words),
        "sha256": found.sha256 or "",
        "weights sha256": found.weights_sha256 or "",
        "refused": ": ".join(found.problem) if found.problem and found.is_refused else "",
    }
    return {heading: text for heading, text in words.items() if text}


def _counted(found: Inspection) -> str:
    vectors = [f"{found.vectors} biases and norms"] if found.vectors else []
    saved = [f"{found.saved} tensors that replace parts of the model"] if found.saved else []
    return ", ".join([str(found.sites), *vectors, *saved])


def _norm_in_words(found: Inspection) -> str:
    if found.norm is not None:
        return f"{found.norm:.4g}"
    return "not read" if found.scale is None else "known only with the base model's weights"


def _unmapped_in_words(found: Inspection) -> list[str]:
    shown = [f"{name}: {why}" for name, why in found.unmapped[:_LARGEST]]
    more = len(found.unmapped) - len(shown)
    return [*shown, f"and {more} more"] if more else shown


def _health_in_words(found: Inspection) -> list[str]:
    if found.headers_only and not found.health:
        return ["not read"]
    return [f"{each.message} ({each.count}, {each.example})" for each in found.health] or (
        ["not read"] if found.dialect == UNKNOWN else ["good"]
    )
