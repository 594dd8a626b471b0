"""What is in an adapter file, told and not judged: the record behind `lorax inspect`.

Unlike reading, which ends at the first reason to refuse, an inspection goes on and tells all that it can.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lorax.adapter import Adapter, Update
from lorax.base_model import BaseModel
from lorax.errors import Refused
from lorax.examine import AdapterFiles, Examination, examine
from lorax.factors import count_non_finite
from lorax.identify import Identification, identify
from lorax.metadata import carried, trigger_words
from lorax.placing import Placed, place
from lorax.read import assemble
from lorax.weight_file import ReadLimits, sha256_file

UNKNOWN = "unknown"
"""Dialect, family or version of a file of which that could not be found out."""
_DEFAULT_LIMITS = ReadLimits()
_LARGEST = 5


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

    sites: how many weights are patched; ranks: those that occur, sorted; scale: smallest and largest, None when no
    tensor was read; dtypes: element type -> number of tensors; norm: Frobenius norm over all updates that are known
    without the base, None when no tensor was read; largest: the sites with the largest norms;
    unmapped: (tensor name, why); problem: (reason code, message) of why the file would be refused, None when it would
    be read; headers_only: no tensor was read, so scale, norm, health and hashes are not known.
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
    trigger_words: list[str] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    sha256: str | None = None
    weights_sha256: str | None = None
    problem: tuple[str, str] | None = None
    headers_only: bool = False

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

    headers_only: read nothing but the header, whatever the size of the file. Raises TryLater when the file changes.
    """
    found = Inspection(file=files.name or str(files.weights), headers_only=headers_only)
    try:
        _inspect(found, files, candidates, labels, limits)
    except Refused as problem:
        _note(found, problem)
    return found


def _note(found: Inspection, problem: Refused) -> None:
    found.problem = found.problem or (problem.reason, problem.message)


def _inspect(
    found: Inspection,
    files: AdapterFiles,
    candidates: Sequence[BaseModel],
    labels: Sequence[str],
    limits: ReadLimits,
) -> None:
    examination = examine(files, limits=limits)
    _tell_header(found, examination)
    if not found.headers_only:
        found.sha256 = sha256_file(files.weights)
        found.weights_sha256 = examination.container.file.weights_sha256()
        found.health += list(_health(examination))
    found.tensors_unknown = len(examination.container.file.tensors)
    base = identify(examination, candidates=candidates, labels=labels)
    _tell_base(found, base)
    placed = place(examination, base.base)
    _tell_places(found, examination, placed)
    if base.problem is not None:
        _note(found, base.problem)
    if not found.headers_only:
        _tell_updates(found, assemble(examination, base.base, base.verdict))


def _tell_header(found: Inspection, examination: Examination) -> None:
    file = examination.container.file
    found.bytes = file.identity.size
    found.dialect = examination.dialect.name
    found.algorithms = list(examination.algorithms())
    found.evidence = [f"{examination.dialect.name}: {examination.evidence.words}"]
    found.sites = sum(module.algorithm is not None for module in examination.modules)
    found.ranks = sorted({module.layout.rank for module in examination.modules if module.layout and module.layout.rank})
    found.dtypes = dict(Counter(entry.dtype for entry in file.tensors.values()).most_common())
    found.trigger_words = list(trigger_words(file.metadata))
    found.metadata = carried(file.metadata)
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


def _tell_base(found: Inspection, base: Identification) -> None:
    found.family, found.version = base.verdict.family, base.verdict.version
    found.base, found.rivals = base.verdict.name, list(base.verdict.rivals)
    found.evidence += base.verdict.evidence


def _tell_places(found: Inspection, examination: Examination, placed: Placed) -> None:
    total = len(examination.container.file.tensors)
    found.unmapped = [*placed.left_out, *((name, "belongs to nothing that is known") for name in placed.unknown)]
    found.tensors_unmappable, found.tensors_unknown = len(placed.left_out), len(placed.unknown)
    found.tensors_mapped = total - found.tensors_unmappable - found.tensors_unknown
    found.sites = len({part.site for module, named in placed.modules if module.algorithm for part in named.parts})


def _health(examination: Examination) -> Iterable[Finding]:
    """What the numbers of a file say: every tensor is read once."""
    file = examination.container.file
    spoilt = [name for name in file.tensors if count_non_finite(file.read(name).float())]
    if spoilt:
        yield Finding("non-finite", len(spoilt), spoilt[0], "tensors with NaN or infinite values")
    alphas = [module.entries["alpha"].name for module in examination.modules if "alpha" in module.entries]
    if zeros := [name for name in alphas if float(file.read(name).float()) == 0]:
        message = "alphas of 0; trainers mean the rank by that, and it is read so"
        yield Finding("alpha-zero", len(zeros), zeros[0], message)


def _tell_updates(found: Inspection, adapter: Adapter) -> None:
    scales = adapter.scales().values()
    found.sites = len(adapter.updates)
    found.ranks = sorted({*adapter.ranks()}) or found.ranks
    found.scale = [min(scales), max(scales)] if scales else None
    norms = {str(site): norm for site, update in adapter.updates.items() if (norm := _norm(update)) is not None}
    found.norm = sum(norm**2 for norm in norms.values()) ** 0.5
    found.largest = sorted(norms.items(), key=lambda pair: -pair[1])[:_LARGEST]
    if zeros := [site for site, norm in norms.items() if norm == 0]:
        found.health.append(Finding("zero-updates", len(zeros), zeros[0], "updates that change nothing"))


def _norm(update: Update) -> float | None:
    """The norm of an update, None for one that is only known with the base."""
    if update.needs_base:
        return None
    factors = update.low_rank()
    return factors.norm() if factors is not None else float(update.dense().double().norm())


def to_table(found: Inspection) -> Mapping[str, str]:
    """Gives the record in words, for people, by heading."""
    base = found.base or (f"undecided between {', '.join(found.rivals)}" if found.rivals else UNKNOWN)
    words = {
        "dialect": found.dialect,
        "algorithms": ", ".join(found.algorithms) or UNKNOWN,
        "family": f"{found.family} {found.version}" if found.version != found.family else found.family,
        "base model": base,
        "evidence": "\n".join(found.evidence),
        "sites": str(found.sites),
        "ranks": ", ".join(map(str, found.ranks)),
        "scale": "not read" if found.scale is None else " to ".join(f"{each:g}" for each in dict.fromkeys(found.scale)),
        "element types": ", ".join(f"{count} {name}" for name, count in found.dtypes.items()),
        "norm": "not read" if found.norm is None else f"{found.norm:.4g}",
        "largest": "\n".join(f"{norm:.4g} {site}" for site, norm in found.largest),
        "tensors": f"{found.tensors_mapped} mapped, {found.tensors_unmappable} left out, "
        f"{found.tensors_unknown} unknown",
        "left out": "\n".join(f"{name}: {why}" for name, why in found.unmapped[:_LARGEST]),
        "health": "\n".join(f"{each.message} ({each.count}, {each.example})" for each in found.health) or "good",
        "trigger words": ", ".join(found.trigger_words),
        "sha256": found.sha256 or "",
        "weights sha256": found.weights_sha256 or "",
        "refused": f"{found.problem[0]}: {found.problem[1]}" if found.problem else "",
    }
    if found.headers_only:
        words["health"] = "not read"
    return {heading: text for heading, text in words.items() if text}
