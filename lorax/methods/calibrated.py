"""calibrated: inputs matched by ridge regression, outputs by the gradient that they receive.

One probe runs through both bases. With X the inputs of a module and G the gradients of the model's output with respect
to the module's output (same random output direction in both bases):

    A' = A·M,  M = argmin ||X_t M^T - X_s||^2 + strength·d·||M - M0||^2
    B'       = argmin ||G_t B' - G_s B||^2    + strength·d·||B' - B0||^2

so the update sees the same coordinates as at home, and has the same first-order effect on what the model says. Matching
outputs by activations instead is clearly worse. M0 and B0 are the identity inside a lineage (the two weights
point the same way: `lineage_cosine`), where strength -> infinity is `copy`; outside it they are zero and
`stranger_strength` is all the regularisation. d is the mean diagonal of the Gram matrix. Both maps are independent of
the adapter, and the rank stays what it was.

The defaults were chosen on five styles of examples/digits, v1 -> v2; the others are for reporting (`bench/lift.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lorax.linear_algebra import ridge
from lorax.method import Method, NoTerm, Setting, SiteInputs, Term
from lorax.operators import Dense


def compile_site(site: SiteInputs, settings: Mapping[str, Setting]) -> Term | NoTerm:
    """Returns the dense output map (out_t, out_s) and the dense input map (in_t, in_s), per channel."""
    if site.statistics is None:
        return NoTerm("no-activations")
    if not site.same_kernel:
        return NoTerm("shape-differs")
    likeness = _weight_cosine(site)
    keep = likeness >= float(settings["lineage_cosine"])
    found = site.statistics
    strengths = [
        float(settings[name if keep else "stranger_strength"]) for name in ("input_strength", "output_strength")
    ]
    input_map = _fit(found.input_gram, found.input_cross, strength=strengths[0], keep=keep)
    output_map = _fit(found.output_gram, found.output_cross, strength=strengths[1], keep=keep)
    return Term(Dense(output_map), Dense(input_map), per_channel=True, figures={"weight_cosine": likeness})


def _fit(gram: Tensor, cross: Tensor, *, strength: float, keep: bool) -> Tensor:
    prior = torch.eye(gram.shape[0], dtype=torch.float64, device=gram.device) if keep else None
    return ridge(gram, cross, strength=strength, prior=prior)


def _weight_cosine(site: SiteInputs) -> float:
    """Returns the cosine of the two weights as vectors; 0 where shapes differ, so no identity prior there."""
    if not site.same_shape:
        return 0.0
    target, source = site.target_weight().flatten().double(), site.source_weight().flatten().double()
    return float(target @ source / (target.norm() * source.norm()).clamp_min(1e-30))


METHOD = Method(
    name="calibrated",
    summary="ridge on inputs, gradient-matched outputs, identity prior inside a lineage",
    reference="own; input side as activation alignment in arXiv 2602.12952, output side as in arXiv 2605.28444",
    needs="activations",
    compile_site=compile_site,
    settings={"input_strength": 1.0, "output_strength": 10.0, "stranger_strength": 0.01, "lineage_cosine": 0.5},
    gives_back={},
)
