"""What lorax knows about a base model, and what a family of base models has to declare."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lorax.adapter import Site, SiteShape

CUSTOM = "custom"
"""The version of a base model whose inventory equals no known one."""


@dataclass(frozen=True, slots=True, eq=False)
class BaseModel:
    """Describes a base model: what it is called, which weights it has, and which bytes it is made of.

    sites: every weight that an adapter can patch; labels: other names that files and catalogues use for it;
    file_hashes: sha256 of its weight files, lower-case hex; fingerprint: sha256 of its content, "" when only the
    inventory is known and no weights are at hand.
    """

    name: str
    family: str
    version: str
    sites: Mapping[Site, SiteShape]
    labels: tuple[str, ...] = ()
    file_hashes: tuple[str, ...] = ()
    fingerprint: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """Describes a family of base models: how its folders look and what its modules are called.

    versions: inventories known without weights;
    recognises(folder): whether the folder holds a member;
    components(folder): the weight folder of each component;
    canonical(component, module): the canonical path of a module as the checkpoint calls it;
    not_sites: last parts of canonical paths whose two-dimensional weight no adapter patches (lookup tables);
    spoken: version -> (ss_base_model_version, modelspec.architecture without "/lora"), as other programs spell them;
    parameters: version -> how many numbers the weights of all its sites hold, as a check on the inventory.
    """

    name: str
    versions: tuple[BaseModel, ...]
    recognises: Callable[[Path], bool]
    components: Callable[[Path], Mapping[str, Path]]
    canonical: Callable[[str, str], str]
    not_sites: frozenset[str] = frozenset()
    spoken: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    parameters: Mapping[str, int] = field(default_factory=dict)
