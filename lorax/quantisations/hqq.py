"""HQQ, which is refused: its tensors are laid out for its own kernels."""

from __future__ import annotations

from lorax.quantisation import Quantisation

QUANTISATION = Quantisation(
    name="hqq",
    summary="HQQ",
    methods=frozenset({"hqq"}),
    refusal="its tensors are laid out for its own kernels",
)
