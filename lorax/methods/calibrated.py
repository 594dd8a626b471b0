"""calibrated: inputs matched by ridge regression, outputs by the gradient that they receive.

One probe runs through both bases. With X the inputs of a module and G the gradients of the model's output with respect
to the module's output (same output directions in both bases):

    A' = A·M,  M = argmin ||X_t M^T - X_s||^2 + input_strength·d·||M - M0||^2
    B' = O·B,  O^T = argmin ||G_t O - G_s||^2 + output_strength·d·||O - O0||^2

so the update sees the same coordinates as at home, and has the same first-order effect on what the model says. Both
maps are independent of the adapter, and the rank stays what it was. d is the mean diagonal of the Gram matrix.

The priors M0 and O0 decide where the probe is silent, and hold against the shrinking that noise brings about. Inside a
lineage (the two weights point the same way: `lineage_cosine`) they are the identity, and strength -> infinity is
`copy`. Outside it they are the isometries of `procrustes`, made smaller where the target's activations or gradients are
larger than the source's, never larger; there both strengths count `stranger_share` times.

What was tried, with figures: docs/calibrated.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from lorax.isometry import isometry
from lorax.linear_algebra import ridge
from lorax.method import Method, NoTerm, Setting, SiteInputs, Term
from lorax.operators import Dense


def compile_site(site: SiteInputs, settings: Mapping[str, Setting]) -> Term | NoTerm:
    """Returns the dense output map (out_t, out_s) and the dense input map (in_t, in_s), per channel."""
    found = site.statistics
    if found is None:
        return NoTerm("no-activations")
    if not site.same_kernel:
        return NoTerm("shape-differs")
    likeness = _weight_cosine(site)
    keep = likeness >= float(settings["lineage_cosine"])
    share = 1.0 if keep else float(settings["stranger_share"])
    sides = (
        (found.input_gram, found.input_cross, found.input_energy, share * float(settings["input_strength"])),
        (found.output_gram, found.output_cross, found.output_energy, share * float(settings["output_strength"])),
    )
    inward, outward = (
        ridge(gram, cross, strength=strength, prior=_prior(gram, cross, energy, keep=keep))
        for gram, cross, energy, strength in sides
    )
    return Term(Dense(outward), Dense(inward), per_channel=True, figures={"weight_cosine": likeness})


def _prior(gram: Tensor, cross: Tensor, energy: float, *, keep: bool) -> Tensor:
    """Returns what the map is drawn to: the identity, or the isometry that fits, at most as large as the source.

    gram = X^T X, cross = X^T Y and energy = ||Y||^2 of target rows X and source rows Y.
    """
    if keep:
        return torch.eye(gram.shape[0], dtype=torch.float64, device=gram.device)
    turned = isometry(cross)
    size = float((turned * (gram.double() @ turned)).sum())
    return turned * min(1.0, math.sqrt(energy / size)) if size > 0 else turned


def _weight_cosine(site: SiteInputs) -> float:
    """Returns the cosine of the two weights as vectors; 0 where shapes differ, so no identity prior there."""
    if not site.same_shape:
        return 0.0
    target, source = site.target_weight().flatten().double(), site.source_weight().flatten().double()
    return float(target @ source / (target.norm() * source.norm()).clamp_min(1e-30))


METHOD = Method(
    name="calibrated",
    summary="ridge on inputs, gradient-matched outputs, drawn to the identity inside a lineage, else to an isometry",
    reference="own; input side as activation alignment in arXiv 2602.12952, output side as in arXiv 2605.28444",
    needs="activations",
    compile_site=compile_site,
    settings={"input_strength": 1.0, "output_strength": 10.0, "stranger_share": 0.3, "lineage_cosine": 0.5},
    version=2,
    gives_back={},
)
