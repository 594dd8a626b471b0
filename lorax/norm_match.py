"""What several methods share: giving back the norm that a map takes away.

The rule is ||dW_t|| / ||W_t|| = ||dW_s|| / ||W_s||: the update keeps its size relative to the weight that it patches.
How much a map takes away depends on the adapter, so a plan holds the ratio of the weights' norms alone, and each
adapter's own factor is found when the plan is applied, from norms that are computed for the report anyway.
"""

from __future__ import annotations

from dataclasses import replace

from lorax.method import SiteInputs, Term


def weight_ratio(site: SiteInputs) -> float:
    """Returns ||W_t|| / ||W_s||, Frobenius, in float64; 1 for a source weight of zeros."""
    target, source = (float(weight().double().norm()) for weight in (site.target_weight, site.source_weight))
    return target / source if source > 0 else 1.0


def norm_matched(term: Term, site: SiteInputs) -> Term:
    """Returns the term with the rule laid down for every update that goes through it."""
    return replace(term, norm_ratio=weight_ratio(site))
