"""A base model whose weights are at hand: its sites, its fingerprint, and its weights read one at a time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lorax.adapter import Site
from lorax.base_files import open_base_files
from lorax.base_model import CUSTOM, BaseModel, Family
from lorax.content import ContentHashes
from lorax.errors import Stop
from lorax.inventory import Inventory, Parameter, take_inventory
from lorax.quantisation import Misfit
from lorax.stored import Stored, digest

if TYPE_CHECKING:
    from torch import Tensor

_BUFFER = re.compile(r"(.*\.)?(position_ids|inv_freq|pos_embed\.pos_embed|masked_bias)")
"""Tensors that follow from the configuration; some programs save them, some do not."""


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """Is a base model whose weights are at hand; they are read one at a time.

    path: the folder or the file; places: where the weight of each module lies; not_runnable: why the model cannot be
    run from there, "" when it can; device: where weights are put when they are asked for.
    """

    base: BaseModel
    path: Path
    places: Mapping[Site, Stored]
    not_runnable: str = ""
    device: str = "cpu"

    @property
    def folder(self) -> Path:
        """Gives the folder to run the model from. Raises Stop where there is none."""
        if self.not_runnable:
            raise Stop(
                f"{self.path}: this base model can be read but not run: {self.not_runnable}. Give its whole folder, as "
                "saved by diffusers or transformers, or choose a method that needs weights alone"
            )
        return self.path if self.path.is_dir() else self.path.parent

    def weight(self, site: Site) -> Tensor:
        """Reads the weight of a site, float32, in the checkpoint's own shape: (out, in) or (out, in, kh, kw).

        A quantised weight is dequantised, one of a fused weight's is taken out of it. Raises Stop for a site that this
        base does not have, and for a quantised weight that contradicts itself.
        """
        if site not in self.base.sites and site not in self.base.tables:
            raise Stop(
                f"{self.path}: base {self.base.name!r} has no weight {site}; compile the plan for this base again"
            )
        try:
            return self.places[site].read().to(self.device)
        except Misfit as problem:
            raise Stop(f"{self.path}: {site}: {problem}; download the base model again") from None


def open_checkpoint(path: Path, *, name: str, labels: Sequence[str] = ()) -> Checkpoint:
    """Opens a base model, a folder or a file: reads every header, hashes every byte once.

    The fingerprint is the sha256 over the components, each by the sha256 of its parameters (canonical name, element
    type, shape, sha256 of the bytes): it depends neither on how the tensors are spread over files, nor on what a
    program calls them, nor on whether it fuses them. Quantised weights count by all that they are made of.
    Raises Stop, naming what is missing, for what no family recognises or what is damaged.
    """
    opened = open_base_files(path)
    found: dict[str, dict[str, Stored]] = {
        component: {path: stored for path, stored in parameters.items() if not _BUFFER.fullmatch(path)}
        for component, parameters in opened.parts.items()
    }
    hashes = ContentHashes.of(opened.files, (stored for parameters in found.values() for stored in parameters.values()))
    inventory = take_inventory({
        component: [_parameter(opened.family, path, stored) for path, stored in parameters.items()]
        for component, parameters in found.items()
    })  # fmt: skip
    base = BaseModel(
        name=name,
        family=opened.family.name,
        version=_version(opened.family, inventory),
        sites=inventory.sites,
        labels=tuple(labels),
        file_hashes=hashes.files,
        fingerprint=_fingerprint(found, hashes),
        tables=inventory.tables,
        vectors=inventory.vectors,
        parameters=inventory.parameters,
    )
    return Checkpoint(base, path, _places(found), opened.not_runnable)


def _parameter(family: Family, path: str, stored: Stored) -> Parameter:
    is_table = path.removesuffix(".weight").rpartition(".")[2] in family.not_sites
    return Parameter(path, stored.shape, is_table=is_table)


def _places(found: Mapping[str, Mapping[str, Stored]]) -> dict[Site, Stored]:
    return {
        Site(component, path.removesuffix(".weight")): stored
        for component, parameters in found.items()
        for path, stored in parameters.items()
    }


def _fingerprint(found: Mapping[str, Mapping[str, Stored]], hashes: ContentHashes) -> str:
    components = {
        component: digest(
            sorted(f"{path} {stored.dtype} {stored.shape} {stored.content(hashes)}" for path, stored in parts.items())
        )
        for component, parts in found.items()
    }
    return digest(f"{component} {content}" for component, content in sorted(components.items()))


def _version(family: Family, inventory: Inventory) -> str:
    """The known version whose components, as far as they are here, have these sites.

    A text encoder may lack some: files of Stable Diffusion 3 leave out a projection that is an identity.
    """
    here = {site.component for site in inventory.sites}
    for known in family.versions():
        wanted = {site: shape for site, shape in known.sites.items() if site.component in here}
        missing = wanted.keys() - inventory.sites.keys()
        rest = {site: shape for site, shape in wanted.items() if site not in missing}
        if rest == inventory.sites and all(site.component.startswith("text_encoder") for site in missing):
            return known.version
    return CUSTOM
