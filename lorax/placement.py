"""Where operators lie and in which precision: a plan's stay resident on an accelerator, as exact as there is need."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from lorax.method import Product, Term
from lorax.operators import Operator, kind_of, rebuild

EXACT = 1e-5
"""Error budget of float32: of the norm of an update, as it goes in or comes out, whichever is larger."""
_BUDGETS = ((1e-2, torch.bfloat16), (2e-3, torch.float16))
"""Least budgets of half precisions. Operator, factor and result are each rounded, by half a unit of 2^-8 or 2^-11."""


def precision_for(error_budget: float) -> torch.dtype:
    """Returns the narrowest element type whose rounding stays within a relative error of converted updates.

    float32 below 2e-3; float16 from there, bfloat16 from 1e-2 on. Sums are always taken in float32.
    """
    return next((dtype for least, dtype in _BUDGETS if error_budget >= least), torch.float32)


def term_on(term: Term, device: torch.device | str, dtype: torch.dtype | None = None) -> Term:
    """Returns the same term with its operators on a device, and in an element type where one is given.

    Sums that are cut back to a rank stay as exact as they are: rounding may change which directions a cut keeps.
    """
    move = _mover(device, None if term.also and term.keeps_rank else dtype)
    also = tuple(Product(_moved(each.output, move), _moved(each.input, move)) for each in term.also)
    return replace(term, output=_moved(term.output, move), input=_moved(term.input, move), also=also)


def place_of(operators: Iterable[Operator]) -> tuple[torch.device, torch.dtype] | None:
    """Returns device and element type of the first operator that has numbers; None where all are identities."""
    tensors = (tensor for operator in operators for tensor in operator.tensors().values())
    return next(((tensor.device, tensor.dtype) for tensor in tensors if tensor.is_floating_point()), None)


def _mover(device: torch.device | str, dtype: torch.dtype | None) -> Callable[[Tensor], Tensor]:
    def move(tensor: Tensor) -> Tensor:
        return tensor.to(device, dtype if tensor.is_floating_point() else None)

    return move


def _moved(operator: Operator, move: Callable[[Tensor], Tensor]) -> Operator:
    return rebuild(kind_of(operator), {name: move(tensor) for name, tensor in operator.tensors().items()})
