"""Which base model an adapter was made for: shapes decide the architecture, words and hashes the checkpoint.

Several bases may share every shape. Among them the evidence is asked in this order: the sha256 of the base file, the
architecture of modelspec, sd-scripts' words, peft's base model name, the catalogue's label. Evidence that excludes
what earlier evidence left over is a contradiction, which is reported and never resolved silently.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from lorax.adapter import BaseVerdict, Site, SiteShape
from lorax.base_model import BaseModel
from lorax.dialect import Container, Dialect
from lorax.errors import Unsupported
from lorax.metadata import holds_path

ENOUGH = 0.99
"""Share of an adapter's modules that a base must have, with equal shapes, to be in question."""
_RIVALRY = 0.01
_ENDING = re.compile(r"/(lora|unet|text_encoder(_2)?)$")
_EXTENSION = re.compile(r"\.(safetensors|ckpt|pt|pth|bin|gguf)$")


@dataclass(frozen=True, slots=True)
class Claim:
    """Is one thing that a file or a catalogue says about the base: where it says it, and the word or sha256.

    is_label: a catalogue's word, chosen by hand from a list; it gives way to a sha256.
    """

    source: str
    word: str
    is_hash: bool = False
    is_label: bool = False

    def names(self, base: BaseModel) -> bool:
        """Tells whether the claim is about this base."""
        if self.is_hash:
            return self.word.lower() in base.file_hashes
        wanted = normalised(self.word)
        return wanted != "" and wanted in {normalised(label) for label in (base.name, *base.labels)}


def normalised(word: str) -> str:
    """Gives the part of a base model's name that writers agree on: "D:/x/SD-1.5.safetensors" and "sd_15" are one.

    Case, an ending "/lora" or "/unet", what comes before the last slash, the file extension and all but letters and
    digits go.
    """
    path = word.casefold().strip().replace("\\", "/").rstrip("/")
    bare = _ENDING.sub("", path).rpartition("/")[2]
    return re.sub(r"[^a-z0-9]", "", _EXTENSION.sub("", bare))


def _shown(word: str) -> str:
    """A word for messages and records: of a path, only its end, for the rest may tell who trained the adapter."""
    return repr("…/" + "/".join(re.split(r"[/\\]", word)[-2:]) if holds_path(word) else word[:100])


@lru_cache(maxsize=64)
def alias_table(base: BaseModel, dialect: Dialect) -> Mapping[str, Site]:
    """Gives the site of every spelling of a dialect, made forward from the sites of a base."""
    return {spelling: site for site in base.sites for spelling in dialect.spellings(site)}


def same_weight(found: SiteShape, wanted: SiteShape) -> bool:
    """Tells whether two shapes are of the same matrix: a 1x1 convolution is a linear layer."""
    kernels = (found.kernel or (1, 1), wanted.kernel or (1, 1))
    sizes = (found.out_features, found.in_features) == (wanted.out_features, wanted.in_features)
    return sizes and kernels[0] == kernels[1]


def identify(
    modules: Mapping[str, SiteShape],
    *,
    container: Container,
    dialect: Dialect,
    candidates: Sequence[BaseModel],
    labels: Sequence[str],
) -> tuple[BaseModel, BaseVerdict]:
    """Finds the base of an adapter whose modules, as the dialect spells them, have these shapes.

    Raises Unsupported: base-unknown when no candidate has the modules, base-undecided when several have them and
    nothing tells which is meant, base-contradicted when the evidence disagrees.
    """
    group = _fitting(modules, container=container, dialect=dialect, candidates=candidates)
    chosen, evidence = _narrowed(group, candidates, _claims(container, labels), where=container.name)
    shapes = f"{len(modules)} modules have the names and shapes of {', '.join(base.name for base in group)}"
    verdict = BaseVerdict(chosen.name, chosen.family, chosen.version, (shapes, *evidence))
    return chosen, verdict


def _fitting(
    modules: Mapping[str, SiteShape], *, container: Container, dialect: Dialect, candidates: Sequence[BaseModel]
) -> list[BaseModel]:
    """The candidates that have the modules; among equals those whose weights are at hand."""
    shares = {base: _share(modules, base, dialect) for base in candidates}
    best = max(shares.values(), default=0.0)
    if best < ENOUGH:
        raise Unsupported("base-unknown", _nearest(modules, shares, dialect), where=container.name)
    group = [base for base, share in shares.items() if share >= max(ENOUGH, best - _RIVALRY)]
    at_hand = [base for base in group if base.fingerprint]
    return at_hand or group


def _share(modules: Mapping[str, SiteShape], base: BaseModel, dialect: Dialect) -> float:
    aliases = alias_table(base, dialect)
    fitting = sum(
        (site := aliases.get(spelling)) is not None and same_weight(shape, base.sites[site])
        for spelling, shape in modules.items()
    )
    return fitting / max(1, len(modules))


def _nearest(modules: Mapping[str, SiteShape], shares: Mapping[BaseModel, float], dialect: Dialect) -> str:
    """Words why no base fits, with the first module of the nearest one that does not."""
    if not shares:
        return "no base model was given to compare with; name one in the migration's [bases]"
    nearest = max(shares, key=lambda base: shares[base])
    aliases = alias_table(nearest, dialect)
    for spelling, shape in modules.items():
        site = aliases.get(spelling)
        if site is None or not same_weight(shape, nearest.sites[site]):
            wanted = f"shape {nearest.sites[site]}" if site is not None else "no such module"
            break
    else:
        return "the adapter patches no module"
    return (
        f"no base model at hand has the adapter's {len(modules)} modules. Nearest is {nearest.name}, with "
        f"{shares[nearest]:.0%}: {spelling!r} patches a weight of shape {shape}, {nearest.name} has {wanted}. "
        "Give the folder of the adapter's own base model under [bases]"
    )


def _claims(container: Container, labels: Sequence[str]) -> list[Claim]:
    """What is said about the base, the most trustworthy first."""
    metadata = container.file.metadata
    found = [Claim("ss_new_sd_model_hash", metadata.get("ss_new_sd_model_hash", ""), is_hash=True)]
    keys = ("modelspec.architecture", "ss_base_model_version", "ss_sd_model_name")
    found += [Claim(key, metadata.get(key, "")) for key in keys]
    found += [Claim("base_model_name_or_path", word) for word in _configured_names(container)]
    found += [Claim("the catalogue", label, is_label=True) for label in labels]
    return [claim for claim in found if claim.word]


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
) -> tuple[BaseModel, list[str]]:
    """The one base that shapes and claims leave over, and the claims that had something to say."""
    left, evidence, proven = list(group), [], False
    for claim in claims:
        said = f"{claim.source} says {_shown(claim.word)}"
        named = [base for base in candidates if claim.names(base)]
        # A word for an architecture holds for every checkpoint of that architecture.
        meant = [base for base in group if any(_covers(other, base) for other in named)]
        if not named:
            evidence.append(f"{said}, which is no base model at hand")
            continue
        agreed = [base for base in left if base in meant]
        if not agreed and proven and claim.is_label:
            evidence.append(f"{said}, overruled by the sha256 of the base file")
            continue
        if not agreed:
            raise _contradiction(claim, named, left, evidence, where)
        left = agreed
        proven = proven or claim.is_hash
        evidence.append(f"{said}: {', '.join(base.name for base in agreed)}")
    if len(left) > 1:
        raise _undecided(left, evidence, where)
    return left[0], evidence


def _covers(named: BaseModel, base: BaseModel) -> bool:
    return named is base or (not named.fingerprint and (named.family, named.version) == (base.family, base.version))


def _contradiction(
    claim: Claim, named: Sequence[BaseModel], left: Sequence[BaseModel], evidence: Sequence[str], where: str
) -> Unsupported:
    before = "; ".join(evidence) or "names and shapes of its modules"
    return Unsupported(
        "base-contradicted",
        f"{claim.source} says {_shown(claim.word)}, which is {', '.join(base.name for base in named)}, but other "
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
