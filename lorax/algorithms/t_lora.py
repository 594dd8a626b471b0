"""T-LoRA: recognised and refused (arXiv 2507.05964; LyCORIS 4 writes q_layer, p_layer and lambda_layer)."""

from __future__ import annotations

from lorax.algorithm import Algorithm

ALGORITHM = Algorithm(
    name="t_lora",
    summary="LoRA whose rank depends on the time step",
    required=frozenset({"q_layer", "p_layer", "lambda_layer"}),
    optional=frozenset({"alpha"}),
    refusal="its rank changes with the time step, and the start it is measured from is not in the file",
)
