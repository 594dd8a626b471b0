"""permuted (control): the update reads what it read at home and says it in the wrong place.

The rows of `up` are shuffled, signs and inputs stay. Norm, spectrum and the input side are those of `copy`, so the
distance between the two is what the output directions carry. `random` loses the input side too. (Another placebo, the
converted adapter of another task, needs no method: score one adapter's conversion on the other's samples.)
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lorax.method import Method, NoTerm, Setting, SiteInputs, Term
from lorax.operators import Identity, SignedPermutation


def compile_site(site: SiteInputs, _settings: Mapping[str, Setting]) -> Term | NoTerm:
    """Returns a random permutation of out features, and an identity on inputs, where shapes agree."""
    if not site.same_shape:
        return NoTerm("shape-differs")
    size = site.target_shape.out_features
    order = torch.randperm(size, generator=site.generator).to(torch.int32)
    return Term(SignedPermutation(order, torch.ones(size)), Identity())


METHOD = Method(
    name="permuted",
    summary="control: right inputs, right size, outputs in shuffled places",
    reference="control",
    needs="shapes",
    compile_site=compile_site,
    is_control=True,
)
