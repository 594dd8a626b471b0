"""GLoRA: recognised and refused (arXiv 2306.07967; LyCORIS writes a1, a2, b1, b2, and bm as a Tucker core)."""

from __future__ import annotations

from lorax.algorithm import Algorithm

ALGORITHM = Algorithm(
    name="glora",
    summary="generalised LoRA, W A + B with both low-rank",
    required=frozenset({"a1", "a2", "b1", "b2"}),
    optional=frozenset({"bm", "alpha"}),
    refusal="half of its change is made of the base weight (W A + B), and tools disagree on the parts they apply",
)
