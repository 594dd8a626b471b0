"""random (control): an update of the same rank and the same singular values in a random place.

Rows and columns are shuffled and their signs drawn anew, which keeps every norm and the whole spectrum, so that what is
left is only "some adapter of this size". Recycling experiments find such adapters surprisingly good in merges
(arXiv 2602.12323), hence the control.
"""

from __future__ import annotations

from collections.abc import Mapping

from lorax.method import Method, NoTerm, Setting, SiteInputs, Term
from lorax.operators import random_signed_permutation


def compile_site(site: SiteInputs, _settings: Mapping[str, Setting]) -> Term | NoTerm:
    """Returns two random signed permutations where shapes agree."""
    if not site.same_shape:
        return NoTerm("shape-differs")
    return Term(
        random_signed_permutation(site.target_shape.out_features, site.generator),
        random_signed_permutation(site.target_shape.in_features, site.generator),
        per_channel=True,
    )


METHOD = Method(
    name="random",
    summary="control: same rank, norm and spectrum, random directions",
    reference="control",
    needs="shapes",
    compile_site=compile_site,
    is_control=True,
)
