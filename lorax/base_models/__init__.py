"""Families of base models, one file each: which folders are members, what their weights are called."""

from __future__ import annotations

from lorax.base_model import BaseModel, Family
from lorax.plug_ins import collect

FAMILIES: dict[str, Family] = collect(__name__, "FAMILY", Family)
"""Every family by name."""


def known_bases() -> tuple[BaseModel, ...]:
    """Gives the base models that are known by their inventory alone, without weights at hand."""
    return tuple(version for family in FAMILIES.values() for version in family.versions())


def spoken_version(base: BaseModel) -> tuple[str, str]:
    """Gives what other programs write for a base: (ss_base_model_version, modelspec.architecture without "/lora").

    Falls back to the base's own name where no other program has a word for it.
    """
    family = FAMILIES.get(base.family)
    return family.spoken.get(base.version, (base.name, base.name)) if family else (base.name, base.name)
