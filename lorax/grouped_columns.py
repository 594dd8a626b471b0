"""QA-LoRA's down factor, of which each column stands for a group of neighbouring inputs (arXiv 2309.14717)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorax.dialect import Expansion

if TYPE_CHECKING:
    from torch import Tensor


def expand_grouped_down(down: Tensor, group: int) -> Tensor:
    """Gives the plain down factor (rank, in) of a QA-LoRA one (rank, in / group), as peft pools.

    QA-LoRA averages the inputs of a group and multiplies by the number of groups: each column is that of its group,
    times groups / group.
    """
    return down.repeat_interleave(group, dim=1) * (down.shape[1] / group)


def grouped_columns(group: int) -> Expansion:
    """Gives what turns a down factor (rank, inputs / group) into the ordinary one, (rank, inputs)."""

    def shape(role: str, stored: tuple[int, ...]) -> tuple[int, ...]:
        return (stored[0], stored[1] * group) if role == "down" and len(stored) == 2 else stored

    def tensor(role: str, stored: Tensor) -> Tensor:
        return expand_grouped_down(stored, group) if role == "down" and stored.dim() == 2 else stored

    return Expansion(shape, tensor)
