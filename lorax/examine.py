"""What an adapter file holds, from its header alone: dialect, modules, algorithms. No tensor is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from lorax.algorithm import Algorithm, Layout
from lorax.algorithms import ALGORITHMS
from lorax.dialect import Container, Dialect, Evidence, Expansion
from lorax.dialects import DIALECTS
from lorax.errors import BadFile, Unsupported
from lorax.foreign import foreign_algorithm, no_adapter, why_refused
from lorax.peft_config import load_json
from lorax.weight_file import ReadLimits, TensorEntry, open_weight_file, refuse_pickle_name

SAVED = "saved"
"""The role of a whole tensor that replaces a part of the model and is carried apart."""
BIAS_ROLES = frozenset({"bias_diff", "norm_bias_diff", "lora_bias"})
VECTOR_ROLES = BIAS_ROLES | {"weight_diff"}
"""Roles of changes of one-dimensional parameters, which belong to no algorithm."""
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
class Module:
    """Is one module of a file: its tensors by role, its algorithm, and what its shapes say.

    algorithm, layout: None for a module of which only vectors are changed; vectors: entries by role.
    """

    spelling: str
    entries: Mapping[str, TensorEntry]
    algorithm: Algorithm | None
    layout: Layout | None
    vectors: Mapping[str, TensorEntry]

    def names(self) -> list[str]:
        """Lists the names of the module's tensors."""
        return [entry.name for entry in (*self.entries.values(), *self.vectors.values())]


@dataclass(frozen=True, slots=True, eq=False)
class Examination:
    """Holds what the header of an adapter file says.

    saved: whole tensors that are carried apart; expansion: how compact tensors unfold; left_out: (tensor name, why it
    has no effect on any base) for what a dialect knows and nothing can move, such as embeddings bundled with LoRA.
    """

    container: Container
    dialect: Dialect
    evidence: Evidence
    modules: tuple[Module, ...]
    saved: tuple[TensorEntry, ...]
    expansion: Expansion | None
    left_out: tuple[tuple[str, str], ...] = ()

    def algorithms(self) -> tuple[str, ...]:
        """Lists the algorithms that occur, sorted."""
        return tuple(sorted({module.algorithm.name for module in self.modules if module.algorithm is not None}))


def examine(files: AdapterFiles, *, limits: ReadLimits = _DEFAULT_LIMITS) -> Examination:
    """Reads the header of an adapter file, and the configuration beside it.

    Raises BadFile for a broken file, Unsupported for a dialect or an algorithm that nobody knows.
    """
    container = open_container(files, limits=limits)
    dialect, evidence = recognise(container)
    expansion = dialect.expansion(container)
    by_spelling = _by_spelling(container, dialect)
    saved = tuple(roles.pop(SAVED) for roles in by_spelling.values() if SAVED in roles)
    left_out = tuple(_left_out(by_spelling, dialect))
    _refuse_foreign(by_spelling)
    modules = tuple(_module(spelling, roles, limits, expansion) for spelling, roles in by_spelling.items() if roles)
    return Examination(container, dialect, evidence, modules, saved, expansion, left_out)


def open_container(files: AdapterFiles, *, limits: ReadLimits = _DEFAULT_LIMITS) -> Container:
    """Opens the weight file and the configuration of an adapter. Raises BadFile."""
    name = files.name or str(files.weights)
    refuse_pickle_name(name, where=name)
    file = open_weight_file(files.weights, limits=limits)
    config = load_json(files.config, limit_bytes=limits.config_bytes, where=name) if files.config else None
    return Container(file, config, name)


def recognise(container: Container) -> tuple[Dialect, Evidence]:
    """Gives the one dialect that a file speaks. Raises BadFile, Unsupported."""
    names = list(container.file.tensors)
    if not names:
        raise BadFile("missing-weights", "the file lists no tensor; fetch the adapter again")
    heard = {name: dialect.recognise(names, container.file.metadata) for name, dialect in DIALECTS.items()}
    claims = {name: evidence for name, evidence in heard.items() if evidence is not None}
    strongest = max((evidence.weight for evidence in claims.values()), default=0)
    best = {name: evidence for name, evidence in claims.items() if evidence.weight == strongest}
    if len(best) > 1:
        said = "; ".join(f"{name}: {evidence.words}" for name, evidence in best.items())
        raise Unsupported("ambiguous-dialect", f"the names of the tensors belong to several dialects: {said}")
    if best:
        ((name, evidence),) = best.items()
        return DIALECTS[name], evidence
    shown = ", ".join(map(repr, names[:_SHOWN]))
    if what := no_adapter(names):
        raise Unsupported("unsupported-algorithm", f"the file holds {what} ({shown}), which no method moves")
    known = ", ".join(DIALECTS)
    message = f"no dialect recognises its {len(names)} tensor names, such as {shown} (known: {known})"
    raise Unsupported("unknown-dialect", message)


def _by_spelling(container: Container, dialect: Dialect) -> dict[str, dict[str, TensorEntry]]:
    """The tensors by module and role, vectors under their own roles."""
    respell = dialect.respell(container) or (lambda spelling: spelling)
    found: dict[str, dict[str, TensorEntry]] = {}
    for name, entry in container.file.tensors.items():
        spelling, role = _split(dialect, name)
        roles = found.setdefault(respell(spelling), {})
        if role == "diff" and len(entry.shape) == 1:
            role = "weight_diff"
        if role in roles:
            seen = f"tensors {roles[role].name!r} and {name!r}"
            raise BadFile("duplicate-tensor", f"{seen} are the same part of a module")
        roles[role] = entry
    return found


@lru_cache(maxsize=2**14)
def _split(dialect: Dialect, name: str) -> tuple[str, str]:
    """What a name says, remembered: the files of one catalogue share their names."""
    return dialect.split(name)


def _left_out(by_spelling: dict[str, dict[str, TensorEntry]], dialect: Dialect) -> Iterator[tuple[str, str]]:
    """Takes out the modules that are of no algorithm and that the dialect knows to be without effect."""
    for spelling, roles in list(by_spelling.items()):
        own = frozenset(roles) - VECTOR_ROLES
        if own and algorithm_of(own) is None and (reason := dialect.unmappable(spelling, frozenset(roles))):
            del by_spelling[spelling]
            yield from ((entry.name, reason) for entry in roles.values())


def _refuse_foreign(by_spelling: Mapping[str, Mapping[str, TensorEntry]]) -> None:
    """Raises Unsupported when a module is of an algorithm that cannot be moved, or of none that is known."""
    foreign: Counter[str] = Counter()
    unknown: list[str] = []
    for roles in by_spelling.values():
        own = frozenset(roles) - VECTOR_ROLES
        algorithm = algorithm_of(own) if own else None
        if algorithm is not None and algorithm.refusal:
            foreign[f"{algorithm.name}, {algorithm.refusal}"] += len(own)
        elif own and algorithm is None:
            _name_foreign({role: roles[role] for role in own}, foreign, unknown)
    if foreign:
        found = "; ".join(f"{name} ({count} tensors)" for name, count in foreign.most_common())
        raise Unsupported("unsupported-algorithm", f"the adapter uses what cannot be moved: {found}")
    if unknown:
        raise unknown_tensors(unknown)


def _name_foreign(roles: Mapping[str, TensorEntry], foreign: Counter[str], unknown: list[str]) -> None:
    strange = {role: entry for role, entry in roles.items() if role not in _known_roles()}
    if not strange:
        foreign[f"a mix of {', '.join(sorted(roles))}"] += len(roles)
    for role, entry in strange.items():
        if name := foreign_algorithm(role, entry.name):
            why = why_refused(name)
            foreign[f"{name}, {why}" if why else name] += 1
        else:
            unknown.append(entry.name)


@lru_cache(maxsize=1)
def _known_roles() -> frozenset[str]:
    return frozenset().union(*(algorithm.required | algorithm.optional for algorithm in ALGORITHMS.values()))


@lru_cache(maxsize=4096)
def algorithm_of(roles: frozenset[str]) -> Algorithm | None:
    """Gives the algorithm of a module with these roles: the complete one that needs the most of them."""
    claiming = [algorithm for algorithm in ALGORITHMS.values() if algorithm.claims_roles(roles)]
    return max(claiming, key=lambda found: _closeness(found, roles), default=None)


def _closeness(algorithm: Algorithm, roles: frozenset[str]) -> tuple[bool, int, int]:
    required = algorithm.required
    return required <= roles, len(required & roles), -len(required)


def unknown_tensors(names: Sequence[str]) -> Unsupported:
    """Words that tensors belong to nothing that is known."""
    shown = ", ".join(map(repr, names[:_SHOWN]))
    rule = "the adapter would lose their effect"
    return Unsupported(
        "unknown-tensor", f"{len(names)} tensors belong to nothing that is known, such as {shown}; {rule}"
    )


def _module(spelling: str, roles: Mapping[str, TensorEntry], limits: ReadLimits, expansion: Expansion | None) -> Module:
    vectors = {role: entry for role, entry in roles.items() if role in VECTOR_ROLES}
    own = {role: _expanded(role, entry, expansion) for role, entry in roles.items() if role not in vectors}
    if not own or (own.keys() == {"alpha"} and vectors):
        return Module(spelling, {}, None, None, vectors)
    algorithm = algorithm_of(frozenset(own))
    if algorithm is None or algorithm.layout is None:
        raise unknown_tensors([entry.name for entry in own.values()])
    if missing := algorithm.required - own.keys():
        message = f"module {spelling!r} has {', '.join(sorted(own))} but no {', '.join(sorted(missing))}"
        raise BadFile("incomplete-pair", f"{message}; fetch the adapter again")
    return Module(spelling, own, algorithm, algorithm.layout(own, limits), vectors)


def _expanded(role: str, entry: TensorEntry, expansion: Expansion | None) -> TensorEntry:
    return entry if expansion is None else replace(entry, shape=expansion.shape(role, entry.shape))
