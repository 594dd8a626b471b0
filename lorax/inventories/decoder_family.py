"""A family of decoder-only language models: what all of them declare alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

from lorax.base_model import BaseModel, Family
from lorax.inventories.decoder import COMPONENT, DECODER_NAMINGS, TABLES, Decoder
from lorax.inventories.known import as_it_is, holds_model_type, known_base, quantised_too, whole_folder


def decoder_family(
    name: str,
    *,
    summary: str,
    model_types: tuple[str, ...],
    decoders: Mapping[str, Decoder],
    labels: Callable[[str], tuple[str, ...]],
    parameters: Mapping[str, int],
    equal_architectures: tuple[frozenset[str], ...] = (),
) -> Family:
    """Gives the family of the decoders that are known by heart, and of every folder of one of its model types.

    labels(version): other words for a known one; those of its quantised copies are added. Other programs have no words
    for language models, so versions are spoken as they are named.
    """

    @cache
    def versions() -> tuple[BaseModel, ...]:
        return tuple(
            known_base(
                version,
                family=name,
                labels=quantised_too(version, *labels(version)),
                components={COMPONENT: decoder.parameters()},
            )
            for version, decoder in decoders.items()
        )

    return Family(
        name=name,
        summary=summary,
        versions=versions,
        recognises=holds_model_type(*model_types),
        components=whole_folder,
        canonical=as_it_is,
        not_sites=TABLES,
        spoken={version: (version, version) for version in decoders},
        parameters=parameters,
        namings=DECODER_NAMINGS,
        equal_architectures=equal_architectures,
    )
