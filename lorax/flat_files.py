"""Writes files of flat names: factors with an alpha per module, in the manner of sd-scripts and LyCORIS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lorax.dialect import EncodedFile, EncodedModule, Strength, Writing
from lorax.errors import Unsupported
from lorax.factors import with_alpha
from lorax.suffixes import joined
from lorax.written_metadata import WEIGHTS_HASH, trainer_entries

if TYPE_CHECKING:
    from torch import Tensor


def alpha_over_rank() -> Strength:
    """Gives the rule of sd-scripts and LyCORIS: scale = alpha / rank of that module, 1 where alpha is not given."""

    def scale(_spelling: str, rank: int, alpha: float | None) -> float:
        # Trainers read an alpha of 0 as "not given"; LyCORIS ignores it where no factor has a rank.
        return alpha / rank if alpha and rank else 1.0

    return scale


def tensors_with_alpha(
    modules: Sequence[EncodedModule], writing: Writing, suffixes: Mapping[str, str]
) -> dict[str, Tensor]:
    """Gives the tensors of all modules by name, alpha beside the factors of each."""
    tensors: dict[str, Tensor] = {}
    for module in modules:
        own, alpha = with_alpha(module, dtype=writing.dtype)
        tensors |= joined(module.spelling, own | ({"alpha": alpha} if alpha is not None else {}), suffixes)
    return tensors


def refuse_saved(writing: Writing, dialect: str) -> None:
    """Raises Unsupported when the adapter carries whole tensors, which only peft's folders have a place for."""
    if saved := list(writing.adapter.saved):
        message = f"{dialect} has no place for whole tensors such as {saved[0]!r}; write it in peft's dialect"
        raise Unsupported("unwritable", message)


def refuse_vectors(vectors: Mapping[tuple[str, str], Tensor], dialect: str) -> None:
    """Raises Unsupported when biases or norms change, which not every dialect can say."""
    if vectors:
        (spelling, _), *_ = vectors
        message = f"{dialect} has no word for the changed bias or norm of {spelling!r}; choose lycoris or comfyui"
        raise Unsupported("unwritable", message)


def flat_file(
    modules: Sequence[EncodedModule],
    more: Mapping[str, Tensor],
    writing: Writing,
    *,
    suffixes: Mapping[str, str],
    network: Mapping[str, str],
    naming: str,
) -> EncodedFile:
    """Gives the one file of an adapter with flat names; more: further tensors by name."""
    tensors = tensors_with_alpha(modules, writing, suffixes) | dict(more)
    metadata = trainer_entries(writing, modules, network=network, naming=naming)
    return EncodedFile(f"{writing.stem}.safetensors", tensors, metadata, hash_entry=WEIGHTS_HASH)
