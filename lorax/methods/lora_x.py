"""lora-x: the update projected onto the target weight's leading singular subspaces.

LoRA-X (arXiv 2501.16559) eq. 3: dW_t = U_t U_t^T dW_s V_t V_t^T. The paper's r is 320 for widths of 640 to 1280; a
fixed r is not comparable over widths, so the rank is chosen here by the share of the weight's squared norm that it
holds (`energy`), with `most` as a cap. `least_overlap` above -1 asks that the two weights' subspaces are alike (eq. 4,
the chance level taken out) and refuses the site otherwise. Shapes must agree: for unequal ones the paper's alignment
pairs singular vectors by index, which an SVD does not determine (`cross-lora` does it all the same). The projection
only shrinks an ordinary LoRA (the paper's own adapters live inside the subspace): `kept` norms in the report show by
how much, and `norm_match` gives it back.
"""

from __future__ import annotations

from collections.abc import Mapping

from lorax.linear_algebra import leading_bases, overlap_above_chance
from lorax.method import Method, NoTerm, Setting, SiteInputs, Term
from lorax.norm_match import norm_matched
from lorax.operators import projector


def compile_site(site: SiteInputs, settings: Mapping[str, Setting]) -> Term | NoTerm:
    """Returns the two projectors of eq. 3, on out features and on all in·kh·kw columns."""
    if not site.same_shape:
        return NoTerm("shape-differs")
    energy, most = float(settings["energy"]), int(settings["most"])
    least = float(settings["least_overlap"])
    target = leading_bases(site.target_weight().flatten(1), energy=energy, most=most)
    figures = {"rank": float(target.rank)}
    if least > -1.0:  # the formula itself never looks at the source weight, and an SVD is what compiling costs
        source = leading_bases(site.source_weight().flatten(1), energy=energy, most=most)
        figures["overlap_left"] = overlap_above_chance(source.left, target.left)
        figures["overlap_right"] = overlap_above_chance(source.right, target.right)
        if min(figures["overlap_left"], figures["overlap_right"]) < least:
            return NoTerm("subspaces-differ")
    term = Term(projector(target.left), projector(target.right), figures=figures)
    return norm_matched(term, site) if settings["norm_match"] else term


METHOD = Method(
    name="lora-x",
    summary="projection onto the target weight's leading singular subspaces",
    reference="LoRA-X, arXiv 2501.16559, eq. 3",
    needs="weights",
    compile_site=compile_site,
    settings={"energy": 0.99, "most": 320, "least_overlap": -1.0, "norm_match": False},
    version=4,
    gives_back={"energy": 1.0, "most": 1_000_000},
)
