"""torchao, which is refused: it saves objects of its own classes, whose layout changes with its version."""

from __future__ import annotations

from lorax.quantisation import Quantisation

QUANTISATION = Quantisation(
    name="torchao",
    summary="torchao",
    methods=frozenset({"torchao"}),
    refusal="its tensors are saved as objects of its own classes, whose layout changes with its version",
)
