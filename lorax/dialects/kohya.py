"""kohya: sd-scripts' spelling, that of most files on Civitai.

`lora_unet_down_blocks_0_…_to_q.lora_down.weight`: a prefix for the component, the path with underscores for dots, so
that a name can be looked up but never read backwards. scale = alpha / rank, alpha a number per module. Modules are
called as in the code that sd-scripts trains: diffusers' names for Stable Diffusion 1 and 2, those of Stability AI's own
code for SDXL, Black Forest Labs' fused ones for Flux.

Files that sd-scripts trained with split_qkv are fused again without a word: their down factor has the rows of three or
four, their up factor is block-diagonal, alpha stays. All programs apply alpha / (n * rank), a third or a quarter of the
trained strength, and so it is read here (sd-scripts issue 2204).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from lorax.base_model import BaseModel
from lorax.dialect import SIGNED, Dialect, EncodedFile, EncodedModule, Evidence, Writing
from lorax.flat_files import alpha_over_rank, flat_file, refuse_saved, refuse_vectors
from lorax.flat_names import family_of, flat_evidence, flat_modules, split_flat, trainer_of, trainer_prefixes
from lorax.naming import NamedModule
from lorax.suffixes import KOHYA, LYCORIS

if TYPE_CHECKING:
    from torch import Tensor

_MODULES = {"stable-diffusion-3": "networks.lora_sd3", "flux": "networks.lora_flux", "lumina2": "networks.lora_lumina"}


def _recognise(names: Sequence[str], metadata: Mapping[str, str]) -> Evidence | None:
    if trainer_of(metadata) == "kohya":
        return flat_evidence(names, weight=SIGNED, also=f", ss_network_module is {metadata['ss_network_module']}")
    return flat_evidence(names)


def _modules(base: BaseModel) -> Iterator[tuple[str, NamedModule]]:
    return flat_modules(base, first=family_of(base), prefixes=trainer_prefixes(base))


def _unmappable(spelling: str, _roles: frozenset[str]) -> str:
    if spelling.endswith("_text_projection"):
        return "the base model has no text projection, so this part had no effect on it"
    return ""


def _pack(
    modules: Sequence[EncodedModule], vectors: Mapping[tuple[str, str], Tensor], writing: Writing
) -> Sequence[EncodedFile]:
    refuse_vectors(vectors, "kohya")
    refuse_saved(writing, "kohya")
    network = {"ss_network_module": _MODULES.get(writing.base.family, "networks.lora")}
    naming = family_of(writing.base)
    return [flat_file(modules, {}, writing, suffixes=KOHYA, network=network, naming=naming)]


DIALECT = Dialect(
    name="kohya",
    summary="sd-scripts and most files on Civitai",
    recognise=_recognise,
    split=lambda name: split_flat(name, LYCORIS),
    modules=_modules,
    strength=lambda _container: alpha_over_rank(),
    unmappable=_unmappable,
    says=frozenset({"lora"}),
    pack=_pack,
)
