"""lora-x: the update projected onto the target weight's leading singular subspaces.

LoRA-X (arXiv 2501.16559) eq. 3: dW_t = U_t U_t^T dW_s V_t V_t^T. The paper's r is 320 for widths of 640 to 1280; a
fixed r is not comparable over widths, so the rank is chosen here by the share of the weight's squared norm that it
holds (`energy`), with `most` as a cap. Shapes must agree: for unequal ones the paper's alignment pairs singular vectors
by index, which an SVD does not determine. The projection only shrinks an ordinary LoRA (the paper's own adapters live
inside the subspace): `kept` norms in the report show by how much, and `norm_match` gives it back on average.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lorax.linear_algebra import leading_subspaces, overlap_above_chance
from lorax.method import Method, NoTerm, Setting, SiteInputs, Term
from lorax.methods._norm_match import norm_matched
from lorax.operators import Operator, cheaper


def compile_site(site: SiteInputs, settings: Mapping[str, Setting]) -> Term | NoTerm:
    """Returns the two projectors of eq. 3, on out features and on all in·kh·kw columns."""
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
    term = Term(_projector(target.left), _projector(target.right), figures=figures)
    return norm_matched(term, site) if settings["norm_match"] else term


def _projector(basis: Tensor) -> Operator:
    return cheaper(basis, basis.T)


METHOD = Method(
    name="lora-x",
    summary="projection onto the target weight's leading singular subspaces",
    reference="LoRA-X, arXiv 2501.16559, eq. 3",
    needs="weights",
    compile_site=compile_site,
    settings={"energy": 0.99, "most": 320, "least_overlap": -1.0, "norm_match": False},
    version=2,
    gives_back={"energy": 1.0, "most": 1_000_000},
)
