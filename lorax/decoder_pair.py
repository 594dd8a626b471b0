"""What a method may know of two decoder language models beyond the weights of a site: heads, neighbours, tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from lorax.adapter import Site
from lorax.checkpoint import Checkpoint
from lorax.errors import BadFile, Stop
from lorax.inventories.decoder import COMPONENT
from lorax.inventories.decoder_config import Fields
from lorax.inventories.known import read_config
from lorax.method import Decoders, Heads
from lorax.vocabulary import shared_rows, vocabulary

_TOKENS = Site(COMPONENT, "model.embed_tokens")


@dataclass(frozen=True, slots=True, eq=False)
class DecoderPair:
    """Holds two decoder language models and what methods computed once for all of their sites."""

    source: Checkpoint
    target: Checkpoint
    _known: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, source: Checkpoint, target: Checkpoint) -> DecoderPair | None:
        """Gives the pair; None where one of the two has no token table of a decoder."""
        both = all(_TOKENS in each.base.tables for each in (source, target))
        return cls(source, target) if both else None

    def around(self, site: Site, origin: Site) -> Decoders:
        """Gives what lies around a target site and the source site that feeds it."""
        return Decoders(
            heads=self.heads,
            shared_embeddings=self.shared_embeddings,
            sibling=lambda *roles: self._siblings(site, origin, roles),
            remember=self.remember,
        )

    def heads(self) -> tuple[Heads, Heads]:
        """Gives the heads of (source, target) from config.json. Raises Stop where it does not say them."""
        return _heads(self.source), _heads(self.target)

    def shared_embeddings(self) -> tuple[Tensor, Tensor]:
        """Gives the rows of both token tables, float32, for the tokens that both have, in one order.

        Raises Stop where a folder has no tokenizer that can be read.
        """
        bases = (self.source, self.target)
        tables = [each.base.tables[_TOKENS].out_features for each in bases]
        known = [
            {token: row for token, row in vocabulary(_beside(each)).items() if row < entries}
            for each, entries in zip(bases, tables, strict=True)
        ]
        here, there = shared_rows(known[0], known[1])
        return self.source.weight(_TOKENS)[here], self.target.weight(_TOKENS)[there]

    def remember(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """Gives what was computed under this name for a site before, or computes it now."""
        if name not in self._known:
            self._known[name] = compute()
        return self._known[name]

    def _siblings(self, site: Site, origin: Site, roles: tuple[str, ...]) -> tuple[Tensor, Tensor] | None:
        here, there = _sibling(self.source, origin, roles), _sibling(self.target, site, roles)
        return None if here is None or there is None else (here, there)


def _sibling(base: Checkpoint, site: Site, roles: tuple[str, ...]) -> Tensor | None:
    block = site.path.rpartition(".")[0]
    paths = (Site(site.component, f"{block}.{role}") for role in roles)
    found = next((path for path in paths if path in base.base.sites), None)
    return None if found is None else base.weight(found)


def _beside(base: Checkpoint) -> Path:
    """The folder where a base's words are, whether or not the model could be run from there."""
    return base.path if base.path.is_dir() else base.path.parent


def _heads(base: Checkpoint) -> Heads:
    file = _beside(base) / "config.json"
    try:
        queries, keys, width = Fields(read_config(file), str(file)).heads()
    except BadFile as error:
        raise Stop(f"the numbers of attention heads cannot be read: {error}") from error
    return Heads(queries // width, keys // width)
