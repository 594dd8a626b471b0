"""prolora: the update split along the source weight's leading subspace and its complement, each part carried over.

ProLoRA (arXiv 2506.04244): with P = U U^T on the leading left singular directions, Q = 1 - P on the rest, and the same
on inputs (P', Q'), step 2 keeps P_s dW P_s' and Q_s dW Q_s', and step 3 carries each into the target's subspaces:

    dW_t = P_t P_s dW P_s' P_t' + Q_t Q_s dW Q_s' Q_t'                                        form = "printed"

The two cross blocks, P_s dW Q_s' and Q_s dW P_s', are dropped, so that a base paired with itself does not give an
update back (a random update keeps about 3/4 of its norm where the leading subspace holds a third of the directions),
and the sum has twice the rank. `keep_rank` cuts it back to the best approximation of the rank that the adapter has,
with the share that is lost in the report; without it the formula is exact and files are twice as large. With the cross
blocks kept it is one product,

    dW_t = (P_t P_s + Q_t Q_s) dW (P_s' P_t' + Q_s' Q_t'),                                    form = "full"

of the rank that the adapter has, and an identity between a base and itself: the printed formula and its cross blocks,
and nothing else.

Where the paper leaves a choice: it does not say how the effective rank is found; as in `lora-x` it is the share of the
weight's squared norm (`energy`), with the same authors' 320 as a cap. Its step 1 keeps pairs of modules whose subspaces
have an overlap above 0.8, which is how it finds the layers that a smaller base has kept. Here the correspondence of the
bases pairs them, so nothing is refused unless `least_overlap` is raised above -1; that is an overlap with the chance
level taken out, since the paper's own grows with rank / width and is 1 for any two weights where rank is width.
Known failure: on distilled bases plain copy was better by 16 to 18 points (arXiv 2605.01929, table 3).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lorax.errors import Stop
from lorax.linear_algebra import Bases, leading_bases, overlap_above_chance
from lorax.method import Method, NoTerm, Product, Setting, SiteInputs, Term
from lorax.norm_match import norm_matched
from lorax.operators import Operator, cheaper, identity_plus


def compile_site(site: SiteInputs, settings: Mapping[str, Setting]) -> Term | NoTerm:
    """Returns both parts' maps, or the one map of the full form, on out features and on all in·kh·kw columns."""
    if not site.same_shape:
        return NoTerm("shape-differs")
    energy, most = float(settings["energy"]), int(settings["most"])
    target = leading_bases(site.target_weight().flatten(1), energy=energy, most=most)
    source = leading_bases(site.source_weight().flatten(1), energy=energy, most=most)
    figures = {
        "rank": float(target.rank),
        "overlap_left": overlap_above_chance(source.left, target.left),
        "overlap_right": overlap_above_chance(source.right, target.right),
    }
    if min(figures["overlap_left"], figures["overlap_right"]) < float(settings["least_overlap"]):
        return NoTerm("subspaces-differ")
    first, *also = _products(source, target, str(settings["form"]))
    term = Term(*first, figures=figures, also=tuple(also), keeps_rank=bool(settings["keep_rank"]))
    return norm_matched(term, site) if settings["norm_match"] else term


def _products(source: Bases, target: Bases, form: str) -> list[Product]:
    sides = [(target.left, source.left), (target.right, source.right)]
    if form == "full":
        return [Product(*(_both(*side) for side in sides))]
    if form == "printed":
        return [Product(*(_parallel(*side) for side in sides)), Product(*(_perpendicular(*side) for side in sides))]
    raise Stop(f"setting form of prolora is {form!r}; it is 'printed' or 'full'")


def _parallel(there: Tensor, here: Tensor) -> Operator:
    """Returns P_t P_s."""
    return cheaper(there @ (there.T @ here), here.T)


def _perpendicular(there: Tensor, here: Tensor) -> Operator:
    """Returns (1 - P_t)(1 - P_s) = 1 + U_t (U_t^T U_s U_s^T - U_t^T) - U_s U_s^T, never written out."""
    inner = (there.T @ here) @ here.T - there.T
    return identity_plus(torch.cat([there, here], dim=1), torch.cat([inner, -here.T]))


def _both(there: Tensor, here: Tensor) -> Operator:
    """Returns P_t P_s + (1 - P_t)(1 - P_s), never written out."""
    inner = 2 * ((there.T @ here) @ here.T) - there.T
    return identity_plus(torch.cat([there, here], dim=1), torch.cat([inner, -here.T]))


METHOD = Method(
    name="prolora",
    summary="leading subspace and complement carried over separately",
    reference="ProLoRA, arXiv 2506.04244, steps 2 and 3",
    needs="weights",
    compile_site=compile_site,
    settings={
        "form": "printed",
        "keep_rank": True,
        "energy": 0.99,
        "most": 320,
        "least_overlap": -1.0,
        "norm_match": False,
    },
    version=4,
    gives_back={"form": "full"},
)
