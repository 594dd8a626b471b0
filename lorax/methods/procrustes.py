"""procrustes: inputs turned by the isometry that fits the activations, outputs by the one that fits the gradients.

One probe runs through both bases; with X the inputs of a module and G the gradients of the model's output with respect
to the module's output,

    dW_t = R dW_s Q^T,   Q = argmax <X_t Q, X_s>,   R = argmax <G_t R, G_s>,   over isometries,

which is U V^T of the SVD of X_t^T X_s, and of G_t^T G_s (orthogonal Procrustes; for equal widths the same as the least
||X_t Q - X_s||). The input side is that of Theseus
(arXiv 2602.12952); its output side takes the same of output activations, BiCo's (arXiv 2605.28444) takes gradients, and
gradients are what the statistics hold. Not done: the papers' optional partial whitening. Sums are not centred.

Where the probe is silent the best isometry is anybody's: for equal widths a small multiple of the identity (`silence`,
relative to the root mean square of the singular values; 0 drops what was not heard) decides; for unequal ones such
directions are dropped. Norms are kept as they are between equal widths, so `norm_match` only follows the weights' norms
there.

Known failures: an isometry cannot follow a rescaling of hidden units, which `calibrated` can, and it trusts directions
that the probe hardly moved as much as those that it moved most.
"""

from __future__ import annotations

from collections.abc import Mapping

from lorax.isometry import isometry
from lorax.method import Method, NoTerm, Setting, SiteInputs, Term
from lorax.norm_match import norm_matched
from lorax.operators import Dense


def compile_site(site: SiteInputs, settings: Mapping[str, Setting]) -> Term | NoTerm:
    """Returns R (out_t, out_s) and Q (in_t, in_s), per channel."""
    found = site.statistics
    if found is None:
        return NoTerm("no-activations")
    if not site.same_kernel:
        return NoTerm("shape-differs")
    silence = float(settings["silence"])
    outward, inward = (isometry(cross, silence).float() for cross in (found.output_cross, found.input_cross))
    term = Term(Dense(outward), Dense(inward), per_channel=True)
    return norm_matched(term, site) if settings["norm_match"] else term


METHOD = Method(
    name="procrustes",
    summary="isometries that fit input activations and output gradients of both bases",
    reference="Theseus, arXiv 2602.12952 (inputs); BiCo, arXiv 2605.28444 (outputs by gradients)",
    needs="activations",
    compile_site=compile_site,
    settings={"silence": 1e-6, "norm_match": False},
    version=2,
    gives_back={},
)
