"""kohya: sd-scripts' spelling, that of most files on Civitai.

`lora_unet_down_blocks_0_…_to_q.lora_down.weight`: a prefix for the component, the path with underscores for dots, so
that a name can be looked up but never read backwards. scale = alpha / rank, alpha a number per module.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lorax.adapter import Adapter, Site
from lorax.base_model import BaseModel
from lorax.base_models import spoken_version
from lorax.dialect import Container, Dialect, EncodedFile, Strength, count_evidence, split_by_suffix
from lorax.factors import factors_for_file, with_alpha_in
from lorax.weight_file import weights_sha256

if TYPE_CHECKING:
    from torch import Tensor

_PREFIXES = {
    "unet": ("lora_unet_",),
    "text_encoder": ("lora_te_", "lora_te1_"),
    "text_encoder_2": ("lora_te2_",),
}
_NAME = re.compile(r"(lora_unet_|lora_te[123]?_)[^.]+\..+")
_SUFFIXES = {".lora_down.weight": "down", ".lora_up.weight": "up", ".alpha": "alpha"}


def _recognise(names: Sequence[str]) -> str:
    matching = sum(_NAME.fullmatch(name) is not None for name in names)
    return count_evidence(names, matching, "start with lora_unet_ or lora_te_")


def _split(name: str) -> tuple[str, str]:
    module, role = split_by_suffix(name, _SUFFIXES)
    # Flat names have no dots: everything after the first one belongs to the role.
    flat, _, rest = module.partition(".")
    return flat, f"{rest}.{role}" if rest else role


def _spellings(site: Site) -> tuple[str, ...]:
    paths = dict.fromkeys((site.path, site.path.removeprefix("text_model.")))
    prefixes = _PREFIXES.get(site.component, ())
    return tuple(prefix + path.replace(".", "_") for path in paths for prefix in prefixes)


def _strength(_container: Container) -> Strength:
    def scale(_spelling: str, rank: int, alpha: float | None) -> float:
        # Trainers read an alpha of 0 as "not given", and one that is not given as the rank.
        return alpha / rank if alpha else 1.0

    return scale


def _unmappable(spelling: str) -> str:
    if spelling.endswith("_text_projection"):
        return "the base model has no text projection, so this part had no effect on it"
    return ""


def _encode(adapter: Adapter, base: BaseModel, stem: str) -> Sequence[EncodedFile]:
    tensors: dict[str, Tensor] = {}
    several_encoders = any(site.component == "text_encoder_2" for site in base.sites)
    for site, update in adapter.updates.items():
        spellings = _spellings(site)
        module = spellings[1] if several_encoders and site.component == "text_encoder" else spellings[0]
        scaled, alpha = with_alpha_in(update, dtype=adapter.dtype)
        up, down = factors_for_file(scaled, dtype=adapter.dtype)
        tensors |= {f"{module}.lora_down.weight": down, f"{module}.lora_up.weight": up, f"{module}.alpha": alpha}
    metadata = _metadata(adapter, base, stem) | {"sshs_model_hash": weights_sha256(tensors)}
    return [EncodedFile(f"{stem}.safetensors", tensors, metadata)]


def _metadata(adapter: Adapter, base: BaseModel, stem: str) -> dict[str, str]:
    """The entries that sd-scripts writes, those that name the base rewritten for this one."""
    version, architecture = spoken_version(base)
    ranks = adapter.ranks()
    largest = max(adapter.updates.values(), key=lambda update: update.rank, default=None)
    alpha = largest.scale * largest.rank if largest is not None else 0.0
    return {
        "ss_network_module": "networks.lora",
        "ss_network_args": "None",
        "ss_output_name": stem,
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": stem,
        **adapter.metadata,
        "ss_network_dim": str(ranks[-1]) if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": f"{alpha:g}" if len(ranks) == 1 else "Dynamic",
        "ss_base_model_version": version,
        "ss_sd_model_name": base.name,
        **({"ss_new_sd_model_hash": base.file_hashes[0]} if base.file_hashes else {}),
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": "diffusers",
    }


DIALECT = Dialect(
    name="kohya",
    summary="sd-scripts and most files on Civitai",
    recognise=_recognise,
    split=_split,
    spellings=_spellings,
    strength=_strength,
    encode=_encode,
    unmappable=_unmappable,
)
