"""Base models that lie in one file under the names of their own code, as most programs for pictures keep them.

The names before the first dots say which part of the model a tensor belongs to; the namings of the families say which
site it is. Pictures' encoders and what belongs to training are known and left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from lorax.base_model import BaseModel, Family
from lorax.base_models import FAMILIES
from lorax.errors import Stop
from lorax.inventories.sgm import sgm_names
from lorax.inventory import Parameter, take_inventory
from lorax.naming import NamedModule
from lorax.native_names import encoder_names
from lorax.original_names import openclip_parameters, unet_of
from lorax.stored import Stored
from lorax.templates import Placed, best_template, place_all, place_parameter

Parameters = Mapping[str, Stored]

_LEFT_OUT = re.compile(
    r"(first_stage_model|vae|model_ema|control_model|lora_controlnet|denoiser|safety_checker|embedding_manager)\..*"
    r"|(.*\.)?(logit_scale|attn_mask|spiece_model|position_ids|scaled_fp8|scale_format|pos_embed|freqs)"
    r"|edm_mean|edm_std|v_pred|ztsnr|betas|alphas_cumprod.*|sqrt_.*|log_one_minus_.*|posterior_.*|scale_factor"
    r"|logvar|lvlb_weights|model_ema|iteration"
)
"""Names of what is no part of the base models that adapters are made for."""
_ENCODERS = (
    (re.compile(r"cond_stage_model\.transformer\.(.+)"), "clip"),
    (re.compile(r"cond_stage_model\.model\.(.+)"), "openclip-h"),
    (re.compile(r"conditioner\.embedders\.\d+\.transformer\.(.+)"), "clip"),
    (re.compile(r"conditioner\.embedders\.\d+\.model\.(.+)"), "openclip-g"),
)
_NAMED_ENCODER = re.compile(r"text_encoders\.(\w+)\.(?:transformer\.)?(.+)")
_DENOISERS = ("model.diffusion_model.", "diffusion_model.", "unet.", "transformer.")
_ADAPTER = re.compile(
    r"(.*\.)?(lora_(down|up|A|B|mid|magnitude_vector)|lora\.(down|up)|hada_w[12]_[ab]|lokr_w[12](_[ab])?|dora_scale)"
    r"(\..*)?|lora_(unet|te\d?|transformer)_.*"
)


@dataclass(slots=True)
class Sections:
    """Holds the tensors of a file by the part of the model that they belong to; encoders: by what they are."""

    denoiser: dict[str, Stored] = field(default_factory=dict)
    encoders: dict[str, dict[str, Stored]] = field(default_factory=dict)


def recognise(parameters: Parameters, *, where: str) -> tuple[Family, Placed]:
    """Gives the family of the base model in a file, and its parameters by component and canonical name.

    Raises Stop for an adapter and for what no family's names explain; it says what was seen.
    """
    refuse_adapter(parameters, where)
    sections = _sections(parameters)
    names = sections.denoiser
    if "input_blocks.0.0.weight" in names or "down_blocks.0.resnets.0.conv1.weight" in names:
        family, placed, version = _unet(names, where)
    else:
        template = best_template(names, where)
        family, version = template.family, template.base
        placed = {template.component: place_all(names, template, where)}
    return family, {**placed, **_encoders(sections, family, version)}


def refuse_adapter(names: Parameters, where: str) -> None:
    """Raises Stop for the file of an adapter that is given as a base model."""
    found = next((name for name in names if _ADAPTER.fullmatch(name)), None)
    if found is not None:
        advice = "give the base model that it was made for; `lorax inspect` tells which that is"
        raise Stop(f"{where}: this is an adapter and no base model (it has the tensor {found}); {advice}")


def _sections(parameters: Parameters) -> Sections:
    found = Sections()
    kept = {name: stored for name, stored in parameters.items() if not _LEFT_OUT.fullmatch(name)}
    prefix = next((each for each in _DENOISERS if any(name.startswith(each) for name in kept)), "")
    for name, stored in kept.items():
        kind, rest = _encoder_of(name)
        if kind:
            found.encoders.setdefault(kind, {})[rest] = stored
        elif name.startswith(prefix):
            found.denoiser[name.removeprefix(prefix)] = stored
    return found


def _encoder_of(name: str) -> tuple[str, str]:
    """What text encoder a tensor belongs to, and what it is called there; ("", "") if to none."""
    for pattern, kind in _ENCODERS:
        if found := pattern.fullmatch(name):
            return kind, found[1]
    if found := _NAMED_ENCODER.fullmatch(name):
        return found[1], found[2]
    return "", ""


def _unet(names: Parameters, where: str) -> tuple[Family, Placed, BaseModel]:
    modules: Mapping[str, NamedModule] | None = None
    if "input_blocks.0.0.weight" in names:
        try:
            skeleton = unet_of({name: stored.shape for name, stored in names.items()})
            inventory = take_inventory({"unet": skeleton.parameters()})
        except (KeyError, IndexError, ValueError) as problem:
            raise Stop(f"{where}: the names are those of a U-Net, but its layers do not add up ({problem!r}); "
                       "is the file complete?") from None  # fmt: skip
        base = BaseModel("", "", "", inventory.sites, tables=inventory.tables, vectors=inventory.vectors)
        modules = {module.path: module for module in sgm_names(base) if module.component == "unet"}
    placed = dict(_placed(names, modules, where))
    family, version = _nearest_unet(placed)
    return family, {"unet": placed}, version


def _placed(names: Parameters, modules: Mapping[str, NamedModule] | None, where: str) -> Iterator[tuple[str, Stored]]:
    """The parameters by their canonical names, which the file uses itself where no modules are given."""
    for name, stored in names.items():
        if modules is None:
            yield name, stored
        else:
            yield from place_parameter(name, stored, modules, where)


def _nearest_unet(placed: Parameters) -> tuple[Family, BaseModel]:
    """The family with the version that has the most weights in common; of a U-Net of other sizes, by its embeddings."""
    found = take_inventory({"unet": (Parameter(name, stored.shape) for name, stored in placed.items())})
    candidates = [(family, version) for family in FAMILIES.values() for version in family.versions()]
    best, likeness = candidates[0], 0.0
    for family, version in candidates:
        sites = {site: shape for site, shape in version.sites.items() if site.component == "unet"}
        common = len(sites.items() & found.sites.items()) / max(1, len(sites.keys() | found.sites.keys()))
        if common > likeness:
            best, likeness = (family, version), common
    if likeness >= 0.5:
        return best
    name = "stable-diffusion-xl" if "add_embedding.linear_1.weight" in placed else "stable-diffusion"
    return FAMILIES[name], FAMILIES[name].versions()[0]


def _encoders(sections: Sections, family: Family, version: BaseModel) -> dict[str, dict[str, Stored]]:
    """The text encoders that the family has, by component."""
    called = {kind: component for component, kind in encoder_names(version).items()}
    found: dict[str, dict[str, Stored]] = {}
    for kind, stored in sections.encoders.items():
        if kind == "openclip-h":
            found["text_encoder"] = dict(openclip_parameters(stored, projected=False))
        elif kind == "openclip-g":
            found["text_encoder_2"] = dict(openclip_parameters(stored, projected=True))
        elif kind == "clip" or kind in called:
            component = called.get(kind, "text_encoder")
            found[component] = {family.canonical(component, name): each for name, each in _one_table(stored)}
    return found


def _one_table(stored: Parameters) -> Iterator[tuple[str, Stored]]:
    """T5's token table bears two names, and some files have it twice."""
    for name, each in stored.items():
        if name != "encoder.embed_tokens.weight":
            yield name, each
        elif "shared.weight" not in stored:
            yield "shared.weight", each
