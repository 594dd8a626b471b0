"""What several methods share: giving back the norm that a map takes away.

The rule is ||dW_t|| / ||W_t|| = ||dW_s|| / ||W_s||: the update keeps its size relative to the weight that it patches.
A plan holds one map for every adapter, so the factor is the one that fits an update without preferred directions:
E||O·dW·I||^2 = ||dW||^2 · ||O||^2/out_s · ||I||^2/in_s. An adapter that lies better (worse) than chance in what the map
keeps comes out larger (smaller) than the rule says; `kept_norm` in the report shows it.
"""

from __future__ import annotations

from dataclasses import replace

from lorax.method import SiteInputs, Term
from lorax.operators import gain


def weight_ratio(site: SiteInputs) -> float:
    """Returns ||W_t|| / ||W_s||, Frobenius, in float64; 1 for a source weight of zeros."""
    target, source = (float(weight().double().norm()) for weight in (site.target_weight, site.source_weight))
    return target / source if source > 0 else 1.0


def norm_matched(term: Term, site: SiteInputs) -> Term:
    """Returns the term with its output operator scaled by the rule, and `norm_factor` among its figures."""
    inputs = site.source_shape.in_features if term.per_channel else site.source_shape.columns
    kept = gain(term.output, site.source_shape.out_features) * gain(term.input, inputs)
    factor = weight_ratio(site) / kept if kept > 0 else 1.0
    return replace(term, output=term.output.times(factor), figures={**term.figures, "norm_factor": factor})
