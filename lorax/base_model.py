"""What lorax knows about a base model, and what a family of base models has to declare."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lorax.adapter import Site, SiteShape
from lorax.naming import Naming, own_names

CUSTOM = "custom"
"""The version of a base model whose inventory equals no known one."""


@dataclass(frozen=True, slots=True, eq=False)
class BaseModel:
    """Describes a base model: what it is called, which weights it has, and which bytes it is made of.

    sites: every weight that an adapter can patch; labels: other names that files and catalogues use for it;
    file_hashes: sha256 of its weight files, lower-case hex; fingerprint: sha256 of its content, "" when only the
    inventory is known and no weights are at hand; tables: lookup tables (embeddings) by (entries, width);
    vectors: biases and norms by the parameter's site and length; parameters: how many numbers it has, 0 if unknown.
    """

    name: str
    family: str
    version: str
    sites: Mapping[Site, SiteShape]
    labels: tuple[str, ...] = ()
    file_hashes: tuple[str, ...] = ()
    fingerprint: str = ""
    tables: Mapping[Site, SiteShape] = field(default_factory=dict)
    vectors: Mapping[Site, int] = field(default_factory=dict)
    parameters: int = 0


def _own_namings() -> Mapping[str, Naming]:
    return {"own": own_names}


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """Describes a family of base models: how its folders look and what its modules are called.

    versions(): inventories known without weights, made when asked for;
    recognises(folder): whether the folder holds a member;
    components(folder): the weight folder of each component;
    canonical(component, module): the canonical path of a module as the checkpoint calls it;
    not_sites: last parts of canonical paths whose two-dimensional weight is a lookup table;
    spoken: version -> (ss_base_model_version, modelspec.architecture without "/lora"), as other programs spell them;
    parameters: version -> how many numbers its real checkpoint holds in the listed components, as a check;
    labels: words for the whole family, which leave the version open;
    look_alikes: words for other models whose adapters have names and shapes of this family's;
    namings: code base -> what it calls the modules; "own" holds the canonical names and has to be there;
    program_namings: what programs call the modules whose names are never flattened, in addition to namings; a dialect
    has to ask for them, for flattened they might be another family's;
    trainer_naming: the naming that sd-scripts, musubi-tuner and their like write for this family;
    flat_prefixes: component -> what stands before a flat name (`lora_unet_`), the one that is written first;
    equal_architectures: groups of versions that share every site an adapter usually patches, which only words can
    tell apart;
    variants: version -> the plain version that it differs from at its input alone (inpainting); adapters are made for
    the plain one and used with both, so that one is meant where nothing says otherwise.
    """

    name: str
    summary: str
    versions: Callable[[], tuple[BaseModel, ...]]
    recognises: Callable[[Path], bool]
    components: Callable[[Path], Mapping[str, Path]]
    canonical: Callable[[str, str], str]
    not_sites: frozenset[str] = frozenset()
    spoken: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    parameters: Mapping[str, int] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    look_alikes: tuple[str, ...] = ()
    namings: Mapping[str, Naming] = field(default_factory=_own_namings)
    program_namings: Mapping[str, Naming] = field(default_factory=dict)
    trainer_naming: str = "own"
    flat_prefixes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    equal_architectures: tuple[frozenset[str], ...] = ()
    variants: Mapping[str, str] = field(default_factory=dict)
