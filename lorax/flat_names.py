"""Flat names, `lora_unet_down_blocks_0_…_to_q`: a prefix for the component and the path with underscores for dots.

They are made forward and looked up, never read backwards. sd-scripts began them; LyCORIS, musubi-tuner, OneTrainer and
others write them too, and are told apart by what they say of themselves and by what only they spell so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from lorax.base_model import BaseModel
from lorax.dialect import FITS, Evidence, all_modules, split_by_suffix
from lorax.naming import NamedModule, without_text_model

NAME = re.compile(r"lora_(unet|te\d?)_[^.]+\..+")
"""A tensor of a flat name with any role."""
ONETRAINER_PREFIXES = ("lora_transformer_", "lora_prior_unet_")
"""What only OneTrainer writes before flat names."""
_FALLBACKS = {
    "unet": ("lora_unet_",),
    "transformer": ("lora_unet_",),
    "text_encoder_2": ("lora_te2_",),
    "text_encoder_3": ("lora_te3_",),
    "text_encoder_4": ("lora_te4_",),
}
MUSUBI_NETWORKS: Mapping[str, str] = {
    "wan": "networks.lora_wan",
    "framepack": "networks.lora_framepack",
    "qwen-image": "networks.lora_qwen_image",
    "z-image": "networks.lora_zimage",
    "hunyuan-video": "networks.lora",
}
"""ss_network_module of musubi-tuner by family."""
_MUSUBI_MODULES = frozenset(
    f"networks.lora_{family}"
    for family in (
        "wan", "framepack", "qwen_image", "qwen_image_21", "kandinsky", "hv_1_5", "zimage", "flux_2", "ideogram4",
        "ernie_image", "hidream_o1", "mage_flow",
    )
)  # fmt: skip
_MUSUBI_VERSIONS = re.compile(
    r"hunyuan_video.*|wan.*|framepack.*|flux_kontext.*|flux_2.*|qwen_image.*|z_?image.*|kandinsky.*|krea_?2.*|hidream.*|ernie.*|ideogram.*"
)


def family_of(base: BaseModel) -> str:
    """Gives the naming that trainers write for a base: "own" where its family is not known."""
    from lorax.base_models import FAMILIES

    family = FAMILIES.get(base.family)
    return family.trainer_naming if family is not None else "own"


def trainer_prefixes(base: BaseModel) -> dict[str, tuple[str, ...]]:
    """Gives what stands before the flat names of each component, the prefix that is written first.

    A component that is in none of the lists, such as a model of transformers on its own, has no flat names.
    """
    from lorax.base_models import FAMILIES

    family = FAMILIES.get(base.family)
    components = dict.fromkeys(site.component for site in (*base.sites, *base.tables, *base.vectors))
    several = "text_encoder_2" in components
    encoder = ("lora_te1_", "lora_te_") if several else ("lora_te_", "lora_te1_")
    fallbacks = {**_FALLBACKS, "text_encoder": encoder}
    known = {**fallbacks, **(family.flat_prefixes if family is not None else {})}
    return {component: known[component] for component in components if component in known}


def flat(path: str) -> str:
    """Gives a path with underscores for dots."""
    return path.replace(".", "_")


def flat_modules(
    base: BaseModel, *, first: str, prefixes: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, NamedModule]]:
    """Lists the modules of a base by their flat names, in all namings, the one called `first` before others.

    All that is written comes first: one prefix and one path for each module of the first naming.
    """
    for module in all_modules(base, first=first):
        own = prefixes.get(module.component, ())
        for path in spelled_paths(module):
            for prefix in own:
                yield prefix + flat(path), module


def spelled_paths(module: NamedModule) -> tuple[str, ...]:
    """Gives the path of a module, and that of a text encoder also without its `text_model.` level."""
    return without_text_model(module.path) if module.component.startswith("text_encoder") else (module.path,)


def split_flat(name: str, suffixes: Mapping[str, str]) -> tuple[str, str]:
    """Splits a tensor of a flat name into module and role.

    Two slips of tools are read as what they mean: `lora_unet__blocks_0` (a path that began with a dot) and
    `…_to_k_.lora_up.weight` (one that ended with a dot).
    """
    module, role = split_by_suffix(name, suffixes)
    # Flat names have no dots: everything after the first one belongs to the role.
    bare, _, rest = module.partition(".")
    bare = re.sub(r"^(lora_[a-z0-9]+_)_(?=[a-z])", r"\1", bare).rstrip("_")
    return bare, f"{rest}.{role}" if rest else role


def flat_evidence(names: Sequence[str], *, weight: int = FITS, also: str = "") -> Evidence | None:
    """Words how many names are flat ones, None unless most of them are."""
    matching = sum(NAME.fullmatch(name) is not None for name in names)
    if 2 * matching <= len(names):
        return None
    return Evidence(weight, f"{matching} of {len(names)} tensor names start with lora_unet_, lora_te_ or alike{also}")


def trainer_of(metadata: Mapping[str, str]) -> str:
    """Gives the tool that signed a file: "kohya", "lycoris", "musubi" or "onetrainer", "" when none did."""
    if "ot_branch" in metadata or "ot_revision" in metadata:
        return "onetrainer"
    module, version = metadata.get("ss_network_module", ""), metadata.get("ss_base_model_version", "")
    if module.startswith("lycoris"):
        return "lycoris"
    if module in _MUSUBI_MODULES or (module.startswith("networks.") and _MUSUBI_VERSIONS.fullmatch(version)):
        return "musubi"
    return "kohya" if module.startswith("networks.") else ""
