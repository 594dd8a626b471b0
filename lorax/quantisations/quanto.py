"""optimum-quanto, which is refused: its tensors are laid out for its own kernels, its settings lie apart."""

from __future__ import annotations

from lorax.quantisation import Quantisation

QUANTISATION = Quantisation(
    name="quanto",
    summary="optimum-quanto",
    methods=frozenset({"quanto"}),
    refusal="its tensors are laid out for its own kernels, and its settings lie in a file of their own",
)
