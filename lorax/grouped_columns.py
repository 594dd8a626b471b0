"""QA-LoRA's down factor, of which each column stands for a group of neighbouring inputs (arXiv 2309.14717)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorax.algorithms.lora import expand_grouped_down
from lorax.dialect import Expansion

if TYPE_CHECKING:
    from torch import Tensor


def grouped_columns(group: int) -> Expansion:
    """Gives what turns a down factor (rank, inputs / group) into the ordinary one, (rank, inputs)."""

    def shape(role: str, stored: tuple[int, ...]) -> tuple[int, ...]:
        return (stored[0], stored[1] * group) if role == "down" and len(stored) == 2 else stored

    def tensor(role: str, stored: Tensor) -> Tensor:
        return expand_grouped_down(stored, group) if role == "down" and stored.dim() == 2 else stored

    return Expansion(shape, tensor)
