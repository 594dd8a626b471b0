"""Which role a tensor has by the end of its name: the endings that dialects share.

Suffix -> role, in the order in which they are tried; of several suffixes of one role the first is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from lorax.errors import Unsupported

if TYPE_CHECKING:
    from torch import Tensor

KOHYA: Mapping[str, str] = {
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora_mid.weight": "mid",
    ".alpha": "alpha",
    ".dora_scale": "magnitude",
}
"""Low-rank factors as sd-scripts writes them, and what other trainers put beside them."""

LYCORIS_ONLY: Mapping[str, str] = {
    **{f".{role}": role for role in (
        "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", "lokr_w1", "lokr_w1_a", "lokr_w1_b",
        "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2", "diff", "oft_blocks", "rescale", "on_input",
    )},
    **{f".{role}.weight": role for role in ("a1", "a2", "b1", "b2", "bm")},
    ".diff_b": "bias_diff",
    ".w_norm": "weight_diff",
    ".b_norm": "norm_bias_diff",
    ".q_layer.weight": "q_layer",
    ".p_layer.weight": "p_layer",
    ".lambda_layer": "lambda_layer",
}  # fmt: skip
"""What LyCORIS' other algorithms are made of; `.on_input` goes with a `.weight` (IA3)."""

LYCORIS: Mapping[str, str] = {**KOHYA, **LYCORIS_ONLY}
"""All of LyCORIS but the `.weight` of its IA3, an ending that other names have as well."""

PEFT: Mapping[str, str] = {
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_A": "down",
    ".lora_B": "up",
    ".lora_B.bias": "lora_bias",
    ".lora_magnitude_vector": "magnitude_out",
    ".lora_magnitude_vector.weight": "magnitude_out",
    ".lora_embedding_A": "embedding_down",
    ".lora_embedding_B": "embedding_up",
}
"""Low-rank factors as peft writes them, with and without the last part of the name."""


def suffix_of(suffixes: Mapping[str, str]) -> dict[str, str]:
    """Gives the suffix that is written for each role: the first."""
    found: dict[str, str] = {}
    for suffix, role in suffixes.items():
        found.setdefault(role, suffix)
    return found


def joined(spelling: str, tensors: Mapping[str, Tensor], suffixes: Mapping[str, str]) -> dict[str, Tensor]:
    """Gives the tensors of one module by name. Raises Unsupported("unwritable") for a role that has no suffix."""
    endings = suffix_of(suffixes)
    if foreign := tensors.keys() - endings.keys():
        parts = ", ".join(sorted(foreign))
        raise Unsupported("unwritable", f"the dialect has no word for {parts} of {spelling!r}; choose lycoris")
    return {spelling + endings[role]: tensor for role, tensor in tensors.items()}


def endings_of(*tables: Iterable[str]) -> frozenset[str]:
    """Gives suffixes without the dot before them, for `ends_with`."""
    return frozenset(suffix.removeprefix(".") for table in tables for suffix in table)


def ends_with(name: str, endings: frozenset[str]) -> bool:
    """Tells whether the last one, two or three parts of a name are one of these endings, at a cost of its length."""
    _, *parts = name.rsplit(".", 3)
    return any(".".join(parts[first:]) in endings for first in range(len(parts)))
