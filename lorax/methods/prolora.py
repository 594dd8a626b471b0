"""prolora: the update split along the source weight's leading subspace and its complement, each part carried over.

ProLoRA (arXiv 2506.04244): with P = U U^T on the leading left singular directions, Q = 1 - P on the rest, and the same
on inputs (P', Q'), the paper keeps P_s dW P_s' and Q_s dW Q_s', and carries each into the target's subspaces:

    dW_t = P_t P_s dW P_s' P_t' + Q_t Q_s dW Q_s' Q_t'

Its two cross blocks, P_s dW Q_s' and Q_s dW P_s', are dropped, so that a base paired with itself does not give an
update back, and the sum of two maps doubles the rank. Here the cross blocks are kept, which makes one product of it,

    dW_t = (P_t P_s + Q_t Q_s) dW (P_s' P_t' + Q_s' Q_t'),

of the rank that the adapter has, and an identity between a base and itself. It differs from the printed formula by the
cross blocks and nothing else. The paper does not say how the effective rank is chosen; as in `lora-x` it is the share
of the weight's squared norm (`energy`), with the same authors' 320 as a cap. `least_overlap` is its threshold on the
subspaces' likeness: 0.8 there, of the plain overlap, which grows with rank / width; here the chance level is taken
out. Known failure: on distilled bases plain copy was better by 16 to 18 points (arXiv 2605.01929, table 3).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lorax.linear_algebra import leading_subspaces, overlap_above_chance
from lorax.method import Method, NoTerm, Setting, SiteInputs, Term
from lorax.norm_match import norm_matched
from lorax.operators import Operator, identity_plus


def compile_site(site: SiteInputs, settings: Mapping[str, Setting]) -> Term | NoTerm:
    """Returns the two maps P_t P_s + Q_t Q_s, on out features and on all in·kh·kw columns."""
    if not site.same_shape:
        return NoTerm("shape-differs")
    energy, most = float(settings["energy"]), int(settings["most"])
    target = leading_subspaces(site.target_weight().flatten(1), energy=energy, most=most)
    source = leading_subspaces(site.source_weight().flatten(1), energy=energy, most=most)
    figures = {
        "rank": float(target.rank),
        "overlap_left": overlap_above_chance(source.left, target.left),
        "overlap_right": overlap_above_chance(source.right, target.right),
    }
    if min(figures["overlap_left"], figures["overlap_right"]) < float(settings["least_overlap"]):
        return NoTerm("subspaces-differ")
    term = Term(_both_parts(target.left, source.left), _both_parts(target.right, source.right), figures=figures)
    return norm_matched(term, site) if settings["norm_match"] else term


def _both_parts(there: Tensor, here: Tensor) -> Operator:
    """Returns P_t P_s + (1 - P_t)(1 - P_s) = 1 + U_t (2 U_t^T U_s U_s^T - U_t^T) - U_s U_s^T, never written out."""
    inner = 2 * ((there.T @ here) @ here.T) - there.T
    return identity_plus(torch.cat([there, here], dim=1), torch.cat([inner, -here.T]))


METHOD = Method(
    name="prolora",
    summary="leading subspace and complement carried over separately, cross blocks kept",
    reference="ProLoRA, arXiv 2506.04244, with its cross blocks kept",
    needs="weights",
    compile_site=compile_site,
    settings={"energy": 0.99, "most": 320, "least_overlap": -1.0, "norm_match": False},
    version=2,
    gives_back={},
)
