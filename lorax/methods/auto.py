"""auto: at each site the method that carries updates best between two bases, judged on rows of the probe held out.

Each candidate is compiled on one half of the probe's rows and judged on the other, then compiled anew on all of them.
The judge is the first-order effect of an update dW on the model's output, sum over rows of g^T dW x, with g the
gradient at the module's output and x its input. For an update in no particular direction, the effect at home and that
of O·dW·I in the target agree as

    agreement = <G_s, G_t O> <X_s, X_t I> / (||G_s|| ||G_t O|| ||X_s|| ||X_t I||),

a cosine: 1 the same effect up to its strength, 0 nothing in common, below 0 the opposite. It needs no adapter, so the
plan serves all of them. Between candidates that agree within `margin` the first of the list wins. Where even the best
stays below `least`, the site gets no update (`would-harm`): nothing is better than harm.

`procrustes` is no candidate: `calibrated` is drawn to it wherever the bases are strangers. Nor are methods that look at
weights alone (docs/calibrated.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from lorax.method import Method, NoTerm, Setting, SiteInputs, SiteStatistics, Term

CANDIDATES = ("calibrated", "copy")
"""What is chosen from, the best of most pairs first. When the version of one is raised, so is auto's."""


def compile_site(site: SiteInputs, settings: Mapping[str, Setting]) -> Term | NoTerm:
    """Returns the term of the candidate with the best agreement, its figures and all agreements beside it."""
    # Found by name when a site is compiled: the folder of methods is complete only once it has been imported.
    from lorax.methods import METHODS

    candidates = [METHODS[name] for name in CANDIDATES]
    fitting = site.statistics.rest() if site.statistics is not None else None
    if site.statistics is None or site.statistics.held_out is None or fitting is None:
        return NoTerm("no-activations")
    trials = {
        method.name: method.compile_site(replace(site, statistics=fitting), method.settings) for method in candidates
    }
    figures = {
        name: agreement(term, site.statistics.held_out, site) for name, term in trials.items() if isinstance(term, Term)
    }
    if not figures:
        return NoTerm("shape-differs")
    best = max(figures.values())
    if best < float(settings["least"]):
        return NoTerm("would-harm")
    chosen = next(method for method in candidates if figures.get(method.name, -1.0) >= best - float(settings["margin"]))
    term = chosen.compile_site(site, chosen.settings)
    if isinstance(term, NoTerm):
        return term
    told = {f"agreement_{name}": figure for name, figure in figures.items()}
    picked = {f"chosen_{name}": float(name == chosen.name) for name in figures}
    return replace(term, figures={**term.figures, **told, **picked})


def agreement(term: Term, rows: SiteStatistics, site: SiteInputs) -> float:
    """Returns the cosine of the first-order effects, at home and of what the term makes of it, of a random update."""
    inward = term.input.apply(torch.eye(site.source_shape.in_features)).double()
    outward = term.output.apply(torch.eye(site.source_shape.out_features)).double()
    inputs = _cosine(inward, rows.input_gram, cross=rows.input_cross, energy=rows.input_energy)
    return inputs * _cosine(outward, rows.output_gram, cross=rows.output_cross, energy=rows.output_energy)


def _cosine(matrix: Tensor, gram: Tensor, *, cross: Tensor, energy: float) -> float:
    """Returns <Y, X M> / (||Y|| ||X M||) from gram = X^T X, cross = X^T Y and energy = ||Y||^2; 0 where one is 0."""
    size = float((matrix * (gram @ matrix)).sum())
    return float((matrix * cross).sum()) / math.sqrt(size * energy) if size > 0 and energy > 0 else 0.0


METHOD = Method(
    name="auto",
    summary="at each site the better of calibrated and copy on held-out rows of the probe, or nothing",
    reference="own; first-order effects as in calibrated",
    needs="activations",
    compile_site=compile_site,
    version=2,
    gives_back={},
    settings={"margin": 0.1, "least": 0.02},
)
