"""cross-lora: the update carried through rank-r singular subspaces of both weights, which may differ in shape.

Cross-LoRA (arXiv 2508.05232): LoRA-Align takes rank-r SVDs of both weights and P_U = argmin ||P U_s - U_t||_F, likewise
P_V; LoRA-Shift (eq. 7) is dW_t = U~ (U~^T dW_s V~) V~^T with U~ = P_U U_s. Two things follow from the formulas:

- U_s has orthonormal columns, so the minimum-norm solution is P_U = U_t U_s^T and U~ = U_t exactly. For equal shapes
  eq. 7 is LoRA-X's eq. 3 with a fixed rank, and Algorithm 1 of the paper is its factored form. That is what is done.
- For unequal shapes eq. 7 does not fit together: U~ has the target's rows and meets an update with the source's. The
  reading that does, dW_t = P_U dW_s P_V^T = U_t U_s^T dW_s V_s V_t^T, is what is done (choice of ours).

Known failure, by construction: P_U pairs singular vectors by their index, and an SVD fixes them only up to a sign and a
rotation among near-equal values. Two copies of one model in different bases give a cosine of about 1/r with the truth,
so across widths expect noise. Known too: for equal shapes the projection only shrinks. Pairing by name, a zero where
there is no partner, no similarity gate: as in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lorax.linear_algebra import leading_bases, leading_subspaces
from lorax.method import Method, NoTerm, Setting, SiteInputs, Term
from lorax.norm_match import norm_matched
from lorax.operators import Operator, cheaper, projector


def compile_site(site: SiteInputs, settings: Mapping[str, Setting]) -> Term | NoTerm:
    """Returns the two maps of eq. 7, on out features and on all in·kh·kw columns."""
    if not site.same_kernel:
        return NoTerm("shape-differs")
    most = int(settings["rank"])
    there = site.target_weight().flatten(1)
    if site.same_shape:
        kept = leading_bases(there, energy=1.0, most=most)
        rank, maps = kept.rank, (projector(kept.left), projector(kept.right))
    else:
        target = leading_subspaces(there, energy=1.0, most=most)
        source = leading_subspaces(site.source_weight().flatten(1), energy=1.0, most=most)
        rank = min(target.rank, source.rank)
        maps = (_paired(target.left, source.left, rank), _paired(target.right, source.right, rank))
    term = Term(*maps, figures={"rank": float(rank)})
    return norm_matched(term, site) if settings["norm_match"] else term


def _paired(there: Tensor, here: Tensor, rank: int) -> Operator:
    return cheaper(there[:, :rank], here[:, :rank].T)


METHOD = Method(
    name="cross-lora",
    summary="rank-r singular subspaces of both weights, paired by index where shapes differ",
    reference="Cross-LoRA, arXiv 2508.05232, eq. 7",
    needs="weights",
    compile_site=compile_site,
    settings={"rank": 320, "norm_match": False},
    version=3,
    gives_back={"rank": 1_000_000},
)
