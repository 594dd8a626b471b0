"""Which base model an adapter was made for: shapes decide the architecture, words and hashes the checkpoint.

Several bases may share every shape that an adapter patches. Among them the evidence is asked in this order: the sha256
of the base file, the architecture of modelspec, sd-scripts' words, peft's base model name, the catalogue's label; then
completeness (an adapter on all 360 attention modules of one base and on half of another's was made for the first), and
last whether a base's weights are at hand. Evidence that excludes what earlier evidence left over is a contradiction,
which is reported and never resolved silently.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from lorax.adapter import BaseVerdict, Site
from lorax.base_model import BaseModel
from lorax.base_models import FAMILIES, spoken_version
from lorax.dialect import Container, Dialect
from lorax.errors import Unsupported
from lorax.examine import Examination, Module
from lorax.metadata import holds_path
from lorax.naming import NamedModule
from lorax.shortlist import Sizes, largest_share, sizes_of

ENOUGH = 0.99
"""Share of an adapter's modules that a base must have, with equal shapes, to be in question."""
UNDECIDED = "undecided"
"""Family or version of an adapter between whose possible bases nothing decides."""
_RIVALRY = 0.01
_ASKED = 8
"""How many bases are compared by name only to say which is nearest when none fits."""
_SAMPLE = 16
_AI_TOOLKIT_DEFAULT = "sd_1.5"
"""What ai-toolkit wrote as the base model of every family that it had no word for yet, Flux among them (issue 130)."""
_NO_WORDS = frozenset({"", "none", "null", "nofile", "isadirectory"})
"""What trainers write where they have nothing to say."""
_ENDING = re.compile(r"/(lora|unet|text_encoder(_2)?)$")
_EXTENSION = re.compile(r"\.(safetensors|ckpt|pt|pth|bin|gguf)$")
_QUANTISED = re.compile(r"([-_.](unsloth|bnb|gptq|awq|hqq|[48]bit|int[48]|nf4|fp8))+$")


@dataclass(frozen=True, slots=True, eq=False)
class Identification:
    """Is what could be found out about an adapter's base.

    base: the winner, or one of the rivals when nothing decides (they are equal in all that the adapter patches);
    problem: why there is no winner, to be raised by whoever needs one.
    """

    base: BaseModel
    verdict: BaseVerdict
    problem: Unsupported | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """Is one thing that a file or a catalogue says about the base: where it says it, and the word or sha256.

    is_label: a catalogue's word, chosen by hand from a list; it gives way to a sha256;
    is_default: what its writer says where it knows no better; it gives way to shapes.
    """

    source: str
    word: str
    is_hash: bool = False
    is_label: bool = False
    is_default: bool = False

    def names(self, base: BaseModel) -> bool:
        """Tells whether the claim is about this base."""
        if self.is_hash:
            return self.word.lower() in base.file_hashes
        return normalised(self.word) in _names_of(base)


def normalised(word: str) -> str:
    """Gives the part of a base model's name that writers agree on: "D:/x/SD-1.5.safetensors" and "sd_15" are one.

    Case, an ending "/lora" or "/unet", what comes before the last slash, the file extension, the name of a quantisation
    and all but letters and digits go.
    """
    path = word.casefold().strip().replace("\\", "/").rstrip("/")
    bare = _ENDING.sub("", path).rpartition("/")[2]
    return re.sub(r"[^a-z0-9]", "", _QUANTISED.sub("", _EXTENSION.sub("", bare)))


@lru_cache(maxsize=1024)
def _names_of(base: BaseModel) -> frozenset[str]:
    """All words for a base, normalised: its own, its labels, and those that other programs write for its version."""
    family = FAMILIES.get(base.family)
    words = (base.name, *base.labels, *spoken_version(base), *(family.labels if family is not None else ()))
    return frozenset(map(normalised, words)) - {""}


def _shown(word: str) -> str:
    """A word for messages and records: of a path, only its end, for the rest may tell who trained the adapter."""
    return repr("…/" + "/".join(re.split(r"[/\\]", word)[-2:]) if holds_path(word) else word[:100])


@lru_cache(maxsize=1024)
def alias_table(base: BaseModel, dialect: Dialect) -> Mapping[str, NamedModule]:
    """Gives the module of every spelling of a dialect, made forward from the modules of a base."""
    found: dict[str, NamedModule] = {}
    for spelling, module in dialect.modules(base):
        found.setdefault(spelling, module)
    return found


def identify(
    examination: Examination, *, candidates: Sequence[BaseModel], labels: Sequence[str] = ()
) -> Identification:
    """Finds the base of an adapter.

    labels: what the catalogue calls the base model. Raises Unsupported("base-unknown") when no candidate has the
    modules. When several have them and nothing tells which is meant (base-undecided), or words contradict shapes or
    each other (base-contradicted), that problem is in the answer, beside what the shapes say.
    """
    container, dialect = examination.container, examination.dialect
    modules = [module for module in examination.modules if not _may_be_left_out(module, dialect)]
    group = _fitting(modules, container=container, dialect=dialect, candidates=candidates)
    shapes = f"{len(modules)} modules have the names and shapes of {', '.join(base.name for base in group)}"
    left, evidence, problem = _narrowed(group, candidates, _claims(container, labels), where=container.name)
    evidence = [shapes, *evidence]
    if len(left) > 1:
        left = _most_complete(left, modules, dialect, evidence)
    left = _without_variants(left, evidence)
    if len(left) > 1 and (at_hand := [base for base in left if base.fingerprint]):
        left = at_hand
    if len(left) > 1 and problem is None:
        problem = _undecided(left, evidence[1:], container.name)
    return Identification(left[0], _verdict(left, evidence, problem), problem)


def _verdict(left: Sequence[BaseModel], evidence: Sequence[str], problem: Unsupported | None) -> BaseVerdict:
    families = {base.family for base in left}
    versions = {base.version for base in left}
    return BaseVerdict(
        name=left[0].name if problem is None else None,
        family=left[0].family if len(families) == 1 else UNDECIDED,
        version=left[0].version if len(versions) == 1 else UNDECIDED,
        evidence=tuple(evidence),
        rivals=tuple(base.name for base in left) if len(left) > 1 else (),
    )


def _may_be_left_out(module: Module, dialect: Dialect) -> bool:
    return bool(dialect.unmappable(module.spelling, frozenset(module.entries)))


def _fitting(
    modules: Sequence[Module], *, container: Container, dialect: Dialect, candidates: Sequence[BaseModel]
) -> list[BaseModel]:
    """The candidates that have the modules; a base at hand stands for the inventories that equal its own."""
    bounds = _bounds(modules, candidates)
    shares = {base: _share(modules, base, dialect) for base in candidates if bounds[base] >= ENOUGH}
    best = max(shares.values(), default=0.0)
    if best < ENOUGH:
        raise Unsupported("base-unknown", _no_base(modules, bounds, dialect), where=container.name)
    # A base that has every module is not rivalled by one that lacks the only telling one (a control model's input).
    least = best if best == 1 else max(ENOUGH, best - _RIVALRY)
    group = [base for base, share in shares.items() if share >= least]
    at_hand = [base for base in group if base.fingerprint]
    return [base for base in group if base.fingerprint or all(base.sites != other.sites for other in at_hand)]


def _share(modules: Sequence[Module], base: BaseModel, dialect: Dialect) -> float:
    aliases = alias_table(base, dialect)
    fitting = sum(fits(module, aliases.get(module.spelling)) for module in modules)
    return fitting / max(1, len(modules))


def fits(module: Module, named: NamedModule | None) -> bool:
    """Tells whether a module of a file can be this module of a base, by its shapes."""
    if named is None:
        return False
    return module.layout is None or (named.shape is not None and module.layout.fits(named.shape))


def _most_complete(
    left: Sequence[BaseModel], modules: Sequence[Module], dialect: Dialect, evidence: list[str]
) -> list[BaseModel]:
    """The bases of which the adapter patches every module of the kinds it patches, if some are, else all."""
    counts = {base: _completeness(modules, base, dialect) for base in left}
    whole = [base for base, (patched, there) in counts.items() if patched == there]
    if whole and len(whole) < len(left):
        said = ", ".join(f"{patched} of {there} of {base.name}" for base, (patched, there) in counts.items())
        evidence.append(f"of the kinds of modules that it patches, it patches {said}")
        return whole
    return list(left)


def _without_variants(left: Sequence[BaseModel], evidence: list[str]) -> list[BaseModel]:
    """The bases without those that differ at their input alone from another one that is among them."""
    there = {(base.family, base.version) for base in left}
    kept = [base for base in left if (base.family, _plain_version(base)) not in there]
    if left_out := [base.name for base in left if base not in kept]:
        evidence.append(f"{', '.join(left_out)} would do as well: a variant that adapters are seldom made for")
    return kept


def _plain_version(base: BaseModel) -> str | None:
    family = FAMILIES.get(base.family)
    return family.variants.get(base.version) if family is not None else None


def _completeness(modules: Sequence[Module], base: BaseModel, dialect: Dialect) -> tuple[int, int]:
    """How many sites an adapter patches, and how many of the same kinds the base has in the same components."""
    aliases = alias_table(base, dialect)
    named = (aliases[module.spelling] for module in modules if module.layout and module.spelling in aliases)
    patched = Counter(_kind(part.site) for module in named for part in module.parts)
    there = Counter(_kind(site) for site in base.sites)
    return patched.total(), sum(there[kind] for kind in patched)


def _kind(site: Site) -> str:
    """What a site is, wherever it is: `unet attn#.to_q`."""
    return f"{site.component} {re.sub('[0-9]+', '#', '.'.join(site.path.split('.')[-2:]))}"


def _bounds(modules: Sequence[Module], candidates: Sequence[BaseModel]) -> dict[BaseModel, float]:
    """What share of the modules each candidate has at most: names need not be made of those that cannot win."""
    sizes: Sizes = sizes_of(module.layout for module in modules)
    return {base: largest_share(sizes, base) for base in candidates}


def _no_base(modules: Sequence[Module], bounds: Mapping[BaseModel, float], dialect: Dialect) -> str:
    """Words why no base fits, with the first module of the nearest one that does not."""
    if not bounds:
        return "no base model was given to compare with; name one in the migration's [bases]"
    if not modules:
        return "the adapter patches no module"
    nearest, share = _nearest(modules, bounds, dialect)
    aliases = alias_table(nearest, dialect)
    odd = next(module for module in modules if not fits(module, aliases.get(module.spelling)))
    named = aliases.get(odd.spelling)
    wanted = f"shape {named.shape}" if named is not None else "no such module"
    return (
        f"no base model at hand has the adapter's {len(modules)} modules. Nearest is {nearest.name}, with "
        f"{share:.0%}: {odd.spelling!r} patches a weight {odd.layout}, {nearest.name} has {wanted}. "
        "Give the folder of the adapter's own base model, with --base or under [bases] of a migration"
    )


def _nearest(modules: Sequence[Module], bounds: Mapping[BaseModel, float], dialect: Dialect) -> tuple[BaseModel, float]:
    """The base that has the largest share of the modules, or, among equals, of their names; and that share.

    Only those with the most sizes in common, and with names that end alike, are asked: all would take a second.
    """
    shares: dict[BaseModel, tuple[float, float]] = {}
    sample = [module.spelling.replace(".", "_") for module in modules[:: len(modules) // _SAMPLE + 1]]
    alike = {base: sum(spelling.endswith(_endings(base)) for spelling in sample) for base in bounds}
    for base in sorted(bounds, key=lambda base: (-bounds[base], -alike[base]))[:_ASKED]:
        if shares and (bounds[base], ENOUGH) <= max(shares.values()):
            break
        aliases = alias_table(base, dialect)
        named = sum(module.spelling in aliases for module in modules) / len(modules)
        shares[base] = _share(modules, base, dialect), named
    nearest = max(shares, key=lambda base: shares[base])
    return nearest, shares[nearest][0]


@lru_cache(maxsize=1024)
def _endings(base: BaseModel) -> tuple[str, ...]:
    """How flat names of a base end: `attn1_to_q`."""
    return tuple({"_".join(site.path.split(".")[-2:]) for site in base.sites})


def _claims(container: Container, labels: Sequence[str]) -> list[Claim]:
    """What is said about the base, the most trustworthy first."""
    metadata = container.file.metadata
    found = [Claim("ss_new_sd_model_hash", metadata.get("ss_new_sd_model_hash", ""), is_hash=True)]
    version = metadata.get("ss_base_model_version", "")
    default = version == _AI_TOOLKIT_DEFAULT and "ai-toolkit" in metadata.get("software", "")
    found += [
        Claim("modelspec.architecture", metadata.get("modelspec.architecture", "")),
        Claim("ss_base_model_version", version, is_default=default),
        # OneTrainer says no more than this of Stable Diffusion 2; "False" is said of all others.
        Claim("ss_v2", "sd_v2" if metadata.get("ss_v2", "").casefold() == "true" else ""),
        Claim("ss_sd_model_name", metadata.get("ss_sd_model_name", "")),
    ]
    found += [Claim("base_model_name_or_path", word) for word in _configured_names(container)]
    found += [Claim("the catalogue", label, is_label=True) for label in labels]
    return [claim for claim in found if claim.word.strip().casefold() not in _NO_WORDS]


def _configured_names(container: Container) -> list[str]:
    configs: list[object] = [container.config]
    try:
        configs.append(json.loads(container.file.metadata.get("lora_adapter_metadata", "null")))
    except (ValueError, RecursionError):
        configs.append(None)
    return [
        value
        for config in configs
        if isinstance(config, dict)
        for key, value in config.items()
        if str(key).rpartition(".")[2] == "base_model_name_or_path" and isinstance(value, str)
    ]


def _narrowed(
    group: Sequence[BaseModel], candidates: Sequence[BaseModel], claims: Sequence[Claim], *, where: str
) -> tuple[list[BaseModel], list[str], Unsupported | None]:
    """The bases that shapes and claims leave over, the claims that had something to say, and the first that lied."""
    left, evidence, proven = list(group), list[str](), False
    problem: Unsupported | None = None
    for claim in claims:
        said = f"{claim.source} says {_shown(claim.word)}"
        named = [base for base in candidates if claim.names(base)]
        # A word for an architecture holds for every checkpoint of that architecture.
        meant = [base for base in group if any(_covers(other, base) for other in named)]
        if not named:
            stranger = any(_looks_like(claim, base) for base in left)
            problem = problem or (_contradiction(claim, named, left, evidence, where) if stranger else None)
            evidence.append(f"{said}, which {'only looks like it' if stranger else 'is no base model at hand'}")
            continue
        agreed = [base for base in left if base in meant]
        if not agreed and (overruled := _overruled(claim, proven=proven)):
            evidence.append(f"{said}, overruled by {overruled}")
            continue
        if not agreed:
            problem = problem or _contradiction(claim, named, left, evidence, where)
            evidence.append(f"{said}, which contradicts that")
            continue
        left = agreed
        proven = proven or claim.is_hash
        evidence.append(f"{said}: {', '.join(base.name for base in agreed)}")
    return left, evidence, problem


def _looks_like(claim: Claim, base: BaseModel) -> bool:
    """Tells whether a claim names a model whose adapters look like those of this base and are not."""
    family = FAMILIES.get(base.family)
    return family is not None and normalised(claim.word) in map(normalised, family.look_alikes)


def _overruled(claim: Claim, *, proven: bool) -> str:
    """Words what goes before a claim that disagrees, "" when nothing does and the disagreement has to be reported."""
    if claim.is_default:
        return "the shapes, for ai-toolkit says so of what it has no word for"
    return "the sha256 of the base file" if proven and claim.is_label else ""


def _covers(named: BaseModel, base: BaseModel) -> bool:
    """Tells whether a word for one base holds for another: a checkpoint of its architecture, or a variant of it."""
    if named is base:
        return True
    return (
        not named.fingerprint and named.family == base.family and named.version in {base.version, _plain_version(base)}
    )


def _contradiction(
    claim: Claim, named: Sequence[BaseModel], left: Sequence[BaseModel], evidence: Sequence[str], where: str
) -> Unsupported:
    before = "; ".join(evidence) or "names and shapes of its modules"
    names = ", ".join(base.name for base in named) or "another model with modules of these names and shapes"
    return Unsupported(
        "base-contradicted",
        f"{claim.source} says {_shown(claim.word)}, which is {names}, but other "
        f"evidence leaves {', '.join(base.name for base in left)} ({before}). Ask the author which base it is for",
        where=where,
    )


def _undecided(left: Sequence[BaseModel], evidence: Sequence[str], where: str) -> Unsupported:
    heard = "; ".join(evidence) or "neither the file nor the catalogue names a base model"
    return Unsupported(
        "base-undecided",
        f"{', '.join(base.name for base in left)} share all shapes that the adapter patches, and nothing decides "
        f"between them ({heard}). A base label in the catalogue's entry, or ss_new_sd_model_hash in the file, would",
        where=where,
    )
