"""FouRA with its gate: recognised and refused (arXiv 2406.08798, section 3.3)."""

from __future__ import annotations

from lorax.algorithm import Algorithm

_FACTORS = frozenset({"foura_down", "foura_up", "alpha"})


def _claims(roles: frozenset[str]) -> bool:
    gates = {role for role in roles if role.startswith("foura_gate")}
    return bool(gates) and roles - gates <= _FACTORS


ALGORITHM = Algorithm(
    name="foura_gated",
    summary="FouRA whose gate chooses ranks by the input",
    required=frozenset({"foura_gate"}),
    optional=_FACTORS,
    refusal="its gate chooses other ranks for every input, so there is no one change of the weight to move",
    claims=_claims,
)
