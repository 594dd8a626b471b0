"""copy-scaled: the update times ||W_t|| / ||W_s||, so that it is as large against the new weight as against the old.

Copy with the data-free norm rule ||dW_t|| / ||W_t|| = ||dW_s|| / ||W_s||. Exact for every adapter, since a copy keeps
the norm. Known failure: what copy fails at; a scale moves no direction.
"""

from __future__ import annotations

from collections.abc import Mapping

from lorax.method import Method, NoTerm, Setting, SiteInputs, Term
from lorax.norm_match import weight_ratio
from lorax.operators import Identity


def compile_site(site: SiteInputs, _settings: Mapping[str, Setting]) -> Term | NoTerm:
    """Returns one number and an identity where shapes agree."""
    if not site.same_shape:
        return NoTerm("shape-differs")
    factor = weight_ratio(site)
    return Term(Identity().times(factor), Identity(), figures={"norm_factor": factor})


METHOD = Method(
    name="copy-scaled",
    summary="the update unchanged but for its strength, which follows the norm of the weight",
    reference="baseline; norm-rescaled control",
    needs="weights",
    compile_site=compile_site,
    gives_back={},
)
