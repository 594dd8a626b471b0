"""Opening a base model: a folder of safetensors files, one file or shards per component, and its fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lorax.adapter import Site
from lorax.base_model import CUSTOM, BaseModel, Family
from lorax.base_models import FAMILIES
from lorax.errors import BadFile, Stop
from lorax.inventory import Inventory, Parameter, take_inventory
from lorax.weight_file import WeightFile, open_weight_file

if TYPE_CHECKING:
    from torch import Tensor

_PREFERRED = ("diffusion_pytorch_model", "model")
_INDEX_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """Is a base model whose weights are at hand; they are read one at a time.

    places: module -> (file, name of its weight in the checkpoint's own spelling).
    """

    base: BaseModel
    folder: Path
    places: Mapping[Site, tuple[WeightFile, str]]

    def weight(self, site: Site) -> Tensor:
        """Reads the weight of a site, float32, in the checkpoint's own shape: (out, in) or (out, in, kh, kw).

        Raises Stop for a site that this base does not have.
        """
        if site not in self.base.sites and site not in self.base.tables:
            raise Stop(
                f"{self.folder}: base {self.base.name!r} has no weight {site}; compile the plan for this base again"
            )
        file, name = self.places[site]
        return file.read(name).float()


def open_checkpoint(folder: Path, *, name: str, labels: Sequence[str] = ()) -> Checkpoint:
    """Opens a base model folder: reads every header, hashes every byte once.

    The fingerprint is the sha256 over the components, each by the sha256 of its tensors (canonical name, element type,
    shape, sha256 of the bytes): it does not depend on how the tensors are spread over files.
    Raises Stop, naming what is missing, for a folder that no family recognises or that is damaged.
    """
    family = _family_of(folder)
    places: dict[Site, tuple[WeightFile, str]] = {}
    found: dict[str, list[Parameter]] = {}
    file_hashes: list[str] = []
    components: dict[str, str] = {}
    for component, weights_folder in sorted(family.components(folder).items()):
        content: list[str] = []
        for file in _open_files(weights_folder):
            hashes = file.hashes()
            file_hashes.append(hashes.file)
            for entry in file.tensors.values():
                path = family.canonical(component, entry.name)
                content.append(f"{path} {entry.dtype} {entry.shape} {hashes.tensors[entry.name]}")
                is_table = path.removesuffix(".weight").rpartition(".")[2] in family.not_sites
                found.setdefault(component, []).append(Parameter(path, entry.shape, is_table=is_table))
                places[Site(component, path.removesuffix(".weight"))] = (file, entry.name)
        components[component] = _digest(sorted(content))
    fingerprint = _digest(f"{component} {content}" for component, content in sorted(components.items()))
    inventory = take_inventory(found)
    base = BaseModel(
        name=name,
        family=family.name,
        version=_version(family, inventory),
        sites=inventory.sites,
        labels=tuple(labels),
        file_hashes=tuple(file_hashes),
        fingerprint=fingerprint,
        tables=inventory.tables,
        vectors=inventory.vectors,
        parameters=inventory.parameters,
    )
    return Checkpoint(base, folder, places)


def _family_of(folder: Path) -> Family:
    if not folder.is_dir():
        raise Stop(f"{folder}: there is no such folder; give the folder of a base model in diffusers' layout")
    for family in FAMILIES.values():
        if family.recognises(folder):
            return family
    known = ", ".join(FAMILIES)
    expected = "expected is a folder as saved by diffusers"
    raise Stop(f"{folder}: no known family of base models looks like this (known: {known}); {expected}")


def _open_files(folder: Path) -> list[WeightFile]:
    """The weight files of one component: one file, or the shards that an index names."""
    try:
        return [open_weight_file(path) for path in _weight_paths(folder)]
    except BadFile as error:
        raise Stop(f"{error} (reason {error.reason}). Download the base model again") from error


def _weight_paths(folder: Path) -> list[Path]:
    found = {path.name: path for path in sorted(folder.glob("*.safetensors*"))}
    for stem in _PREFERRED:
        for precision in ("", ".fp16"):
            if (index := found.get(f"{stem}.safetensors.index{precision}.json")) is not None:
                return _shards(index)
            if (single := found.get(f"{stem}{precision}.safetensors")) is not None:
                return [single]
    candidates = [path for name, path in found.items() if name.endswith(".safetensors")]
    if len(candidates) == 1:
        return candidates
    seen = ", ".join(found) or "no safetensors file"
    raise Stop(f"{folder}: found {seen}; expected is one of {', '.join(f'{stem}.safetensors' for stem in _PREFERRED)}")


def _shards(index: Path) -> list[Path]:
    advice = "download the base model again"
    if index.stat().st_size > _INDEX_BYTES:
        raise Stop(f"{index}: the list of shards is larger than {_INDEX_BYTES} bytes; {advice}")
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Stop(f"{index}: this is no list of shards ({error!r}); {advice}") from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise Stop(f"{index}: shard {name!r} is not a file name in the same folder; {advice}")
    return [index.parent / name for name in sorted(names)]


def _version(family: Family, inventory: Inventory) -> str:
    return next((known.version for known in family.versions() if known.sites == inventory.sites), CUSTOM)


def _digest(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()
