"""From a file to an Adapter: container, dialect, modules, base model, algorithm, updates.

Every tensor of the file ends as mapped, as knowingly left out, or as unknown; with one unknown tensor the file is
refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lorax.adapter import Adapter, LowRank, Site, SiteShape
from lorax.algorithm import Algorithm, Layout, foreign_algorithm, no_adapter
from lorax.algorithms import ALGORITHMS
from lorax.base_model import BaseModel
from lorax.dialect import Container, Dialect
from lorax.dialects import DIALECTS
from lorax.errors import BadFile, Refused, TryLater, Unsupported
from lorax.factors import count_non_finite
from lorax.identify import alias_table, identify, same_weight
from lorax.metadata import carried, trigger_words
from lorax.peft_config import load_json
from lorax.weight_file import ReadLimits, TensorEntry, open_weight_file, refuse_pickle_name

_SHOWN = 3
_DEFAULT_LIMITS = ReadLimits()


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """Names the files of one adapter: weights, the configuration beside them, and what the user calls it.

    name: for messages, and its suffix counts: a stored blob has no meaningful name of its own.
    """

    weights: Path
    config: Path | None = None
    name: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class _Module:
    """One module of a file: its tensors by role, its algorithm, and what its shapes say."""

    spelling: str
    entries: Mapping[str, TensorEntry]
    algorithm: Algorithm
    layout: Layout


def read_adapter(
    files: AdapterFiles,
    *,
    candidates: Sequence[BaseModel],
    labels: Sequence[str] = (),
    limits: ReadLimits = _DEFAULT_LIMITS,
) -> Adapter:
    """Reads an adapter and finds out which of the candidates it was made for.

    labels: what the catalogue calls the base model.
    Raises BadFile for a broken file, Unsupported for one that this version cannot move, TryLater when memory or the
    file gave way; each names the file as the user knows it, the tensor, and what to do.
    """
    name = files.name or str(files.weights)
    try:
        return _read(files, name, candidates=candidates, labels=labels, limits=limits)
    except (MemoryError, RuntimeError) as error:
        # torch tells of memory that ran out in words only.
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
            raise
        advice = "the adapter did not fit into memory; run again with less at once"
        raise TryLater("out-of-memory", advice, where=name) from error
    except (Refused, TryLater) as error:
        raise error.at(name) from error


def _read(
    files: AdapterFiles, name: str, *, candidates: Sequence[BaseModel], labels: Sequence[str], limits: ReadLimits
) -> Adapter:
    refuse_pickle_name(name, where=name)
    file = open_weight_file(files.weights, limits=limits)
    config = load_json(files.config, limit_bytes=limits.config_bytes, where=name) if files.config else None
    container = Container(file, config, name)
    dialect = _dialect_of(list(file.tensors))
    modules = _modules(container, dialect, limits)
    strength = dialect.strength(container)
    shapes = {module.spelling: module.layout.shape for module in modules if not dialect.unmappable(module.spelling)}
    base, verdict = identify(shapes, container=container, dialect=dialect, candidates=candidates, labels=labels)
    placed, unmappable = _placed(modules, dialect=dialect, base=base)
    updates: dict[Site, LowRank] = {}
    for site, module in placed.items():
        tensors = {role: _finite(container, entry.name) for role, entry in module.entries.items()}
        alpha = float(tensors["alpha"]) if "alpha" in tensors else None
        scale = strength(module.spelling, module.layout.rank, alpha)
        updates[site] = module.algorithm.decode(tensors, scale, base.sites[site].kernel)
    for tensor, _ in unmappable:
        _finite(container, tensor)
    _refuse_nothing(updates)
    return Adapter(
        updates=updates,
        dialect=dialect.name,
        algorithms=tuple(sorted({module.algorithm.name for module in modules})),
        dtype=_common_dtype(container, modules),
        metadata=carried(file.metadata),
        trigger_words=trigger_words(file.metadata),
        base=verdict,
        weights_sha256=file.weights_sha256(),
        unmappable=unmappable,
    )


def _dialect_of(names: Sequence[str]) -> Dialect:
    """The one dialect that recognises the names."""
    if not names:
        raise BadFile("missing-weights", "the file lists no tensor; fetch the adapter again")
    evidence = {dialect.name: dialect.recognise(names) for dialect in DIALECTS.values()}
    recognised = [name for name, found in evidence.items() if found]
    if len(recognised) > 1:
        heard = "; ".join(f"{name}: {evidence[name]}" for name in recognised)
        raise Unsupported("ambiguous-dialect", f"the names of the tensors belong to several dialects: {heard}")
    if recognised:
        return DIALECTS[recognised[0]]
    shown = ", ".join(map(repr, names[:_SHOWN]))
    if what := no_adapter(names):
        message = f"the file holds {what} ({shown}); this version moves LoRA adapters"
        raise Unsupported("unsupported-algorithm", message)
    message = f"no dialect recognises its {len(names)} tensor names, such as {shown} (known: {', '.join(DIALECTS)})"
    raise Unsupported("unknown-dialect", message)


def _modules(container: Container, dialect: Dialect, limits: ReadLimits) -> list[_Module]:
    """The modules of a file, each with the one algorithm that knows its roles."""
    by_spelling: dict[str, dict[str, TensorEntry]] = {}
    for name, entry in container.file.tensors.items():
        spelling, role = dialect.split(name)
        roles = by_spelling.setdefault(spelling, {})
        if role in roles:
            raise BadFile(
                "duplicate-tensor", f"tensors {roles[role].name!r} and {name!r} are the same part of a module"
            )
        roles[role] = entry
    _refuse_foreign(by_spelling)
    return [_module(spelling, roles, limits) for spelling, roles in by_spelling.items()]


def _refuse_foreign(by_spelling: Mapping[str, Mapping[str, TensorEntry]]) -> None:
    """Raises Unsupported when a role belongs to an algorithm of another version, or to none that is known."""
    foreign: Counter[str] = Counter()
    unknown: list[str] = []
    for roles in by_spelling.values():
        if any(algorithm.claims(frozenset(roles)) for algorithm in ALGORITHMS.values()):
            continue
        known = frozenset().union(*(algorithm.required | algorithm.optional for algorithm in ALGORITHMS.values()))
        for role, entry in roles.items():
            if role not in known and (name := foreign_algorithm(role, entry.name)):
                foreign[name] += 1
            elif role not in known:
                unknown.append(entry.name)
    if foreign:
        found = ", ".join(f"{name} ({count} tensors)" for name, count in foreign.most_common())
        message = f"the adapter uses {found}; this version moves {', '.join(ALGORITHMS)}"
        raise Unsupported("unsupported-algorithm", message)
    if unknown:
        raise _unknown(unknown)


def _unknown(names: Sequence[str]) -> Unsupported:
    shown = ", ".join(map(repr, names[:_SHOWN]))
    message = (
        f"{len(names)} tensors belong to nothing that is known, such as {shown}; the adapter would lose their effect"
    )
    return Unsupported("unknown-tensor", message)


def _module(spelling: str, roles: Mapping[str, TensorEntry], limits: ReadLimits) -> _Module:
    algorithm = next(algorithm for algorithm in ALGORITHMS.values() if algorithm.claims(frozenset(roles)))
    if missing := algorithm.required - roles.keys():
        message = f"module {spelling!r} has {', '.join(sorted(roles))} but no {', '.join(sorted(missing))}"
        raise BadFile("incomplete-pair", f"{message}; fetch the adapter again")
    return _Module(spelling, roles, algorithm, algorithm.layout(roles, limits))


def _placed(
    modules: Sequence[_Module], *, dialect: Dialect, base: BaseModel
) -> tuple[dict[Site, _Module], tuple[tuple[str, str], ...]]:
    """The modules by site, and the tensors that are knowingly left out with the reason."""
    aliases = alias_table(base, dialect)
    placed: dict[Site, _Module] = {}
    left_out: list[tuple[str, str]] = []
    unknown: list[str] = []
    for module in modules:
        names = [entry.name for entry in module.entries.values()]
        site = aliases.get(module.spelling)
        if site is None and (reason := dialect.unmappable(module.spelling)):
            left_out += [(name, reason) for name in names]
        elif site is None:
            unknown += names
        elif site in placed:
            message = f"{placed[site].spelling!r} and {module.spelling!r} are two spellings of {site}"
            raise BadFile("duplicate-tensor", message)
        else:
            _check_shape(module, base.sites[site], base)
            placed[site] = module
    if unknown:
        raise _unknown(unknown)
    return placed, tuple(left_out)


def _check_shape(module: _Module, wanted: SiteShape, base: BaseModel) -> None:
    if not same_weight(module.layout.shape, wanted):
        message = (
            f"module {module.spelling!r} patches a weight of shape {module.layout.shape}, {base.name} has {wanted}"
        )
        raise BadFile("bad-shape", message)


def _finite(container: Container, name: str) -> Tensor:
    """Reads a tensor as float32. Raises BadFile when a value is NaN or infinite, in the file or once it is float32."""
    tensor = container.file.read(name).float()
    if count := count_non_finite(tensor):
        raise BadFile("non-finite", f"{count} of {tensor.numel()} values of tensor {name!r} are NaN or infinite")
    return tensor


def _refuse_nothing(updates: Mapping[Site, LowRank]) -> None:
    if all(update.norm() == 0 for update in updates.values()):
        raise BadFile("all-zero", f"all {len(updates)} updates are zero: the adapter changes nothing")


def _common_dtype(container: Container, modules: Sequence[_Module]) -> torch.dtype:
    """The commonest element type of the factors."""
    factors = [entry.name for module in modules for role, entry in module.entries.items() if role != "alpha"]
    return Counter(map(container.file.dtype, factors)).most_common(1)[0][0]
