"""Reading the numbers of a decoder from the configuration that lies beside its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lorax.base_model import CUSTOM, BaseModel, Family
from lorax.errors import BadFile
from lorax.inventories.decoder import COMPONENT, Decoder
from lorax.inventory import take_inventory

_MOST_LAYERS, _MOST_EXPERTS, _MOST_SITES = 1024, 4096, 500_000
_MOST_ENTRIES, _WIDEST = 2**24, 2**20
_REMEDY = "download config.json of the base model again"


@dataclass(frozen=True, slots=True)
class Fields:
    """Reads fields of a configuration and names the one that is missing or impossible.

    where: the file, for messages. Every method raises BadFile with the reason bad-config.
    """

    config: Mapping[str, object]
    where: str

    def number(self, name: str, *, most: int = _WIDEST, default: int | None = None) -> int:
        """Gives a whole number from 1 to `most`; default: what an absent field or null means, None if it has to be."""
        found = self.config.get(name)
        if found is None and default is not None:
            return default
        if isinstance(found, bool) or not isinstance(found, int) or not 1 <= found <= most:
            seen = "is missing" if name not in self.config else f"is {str(found)[:80]!r}"
            raise self.bad(f"field {name!r} {seen}, expected is a whole number from 1 to {most}")
        return found

    def flag(self, name: str, *, default: bool) -> bool:
        """Gives a truth value; default: what an absent field or null means."""
        found = self.config.get(name)
        if found is None:
            return default
        if not isinstance(found, bool):
            raise self.bad(f"field {name!r} is {str(found)[:80]!r}, expected is true or false")
        return found

    def numbers(self, name: str) -> frozenset[int]:
        """Gives a list of whole numbers; an absent one is empty."""
        found = self.config.get(name) or []
        if not isinstance(found, list) or not all(isinstance(number, int) for number in found):
            raise self.bad(f"field {name!r} is {str(found)[:80]!r}, expected is a list of whole numbers")
        return frozenset(found)

    def bad(self, message: str) -> BadFile:
        """Gives the error that says what is wrong with the configuration."""
        return BadFile("bad-config", f"{message}; {_REMEDY}", where=self.where)

    def layers(self) -> int:
        """Gives the number of layers."""
        return self.number("num_hidden_layers", most=_MOST_LAYERS)

    def vocab(self) -> int:
        """Gives the number of tokens."""
        return self.number("vocab_size", most=_MOST_ENTRIES)

    def experts(self, *names: str) -> int:
        """Gives the number of experts under the first of these names that the configuration has."""
        name = next((name for name in names if name in self.config), names[0])
        return self.number(name, most=_MOST_EXPERTS)

    def heads(self) -> tuple[int, int, int]:
        """Gives (rows of the query projection, rows of the key projection, width of a head)."""
        hidden, heads = self.number("hidden_size"), self.number("num_attention_heads", most=_MOST_EXPERTS)
        keys = self.number("num_key_value_heads", most=_MOST_EXPERTS, default=heads)
        if self.config.get("head_dim") is None and hidden % heads:
            raise self.bad(f"fields 'hidden_size' {hidden} and 'num_attention_heads' {heads} do not divide evenly")
        if heads % keys:
            raise self.bad(
                f"fields 'num_attention_heads' {heads} and 'num_key_value_heads' {keys} do not divide evenly"
            )
        width = self.number("head_dim", default=hidden // heads)
        return heads * width, keys * width, width


Reader = Callable[[Fields], Decoder]
"""Reads the numbers of a decoder of one model type."""


def decoder_base(config: Mapping[str, object], *, family: Family, reader: Reader, name: str, where: str) -> BaseModel:
    """Gives the base model that a configuration describes, known by inventory alone.

    It has the version of the known base with equal sites, else CUSTOM. name: "" to be called like its version.
    """
    fields = Fields(config, where)
    decoder = reader(fields)
    if decoder.layers * max(1, decoder.experts) > _MOST_SITES:
        raise fields.bad(f"{decoder.layers} layers of {decoder.experts} experts each are more than {_MOST_SITES}")
    found = take_inventory({COMPONENT: decoder.parameters()})
    version = next((known.version for known in family.versions() if known.sites == found.sites), CUSTOM)
    return BaseModel(
        name or version, family.name, version, found.sites, tables=found.tables, vectors=found.vectors,
        parameters=found.parameters,
    )  # fmt: skip
