"""style: how much nearer the style of the conversion's pictures is to source+adapter's than that of the plain target.

As `likeness`, by an encoder that looks for style and not for what is shown (CSD: Somepalli et al., arXiv 2404.01292).
"""

from __future__ import annotations

from lorax.nearness import apart, distances, gain
from lorax.scorer import Scorer

SCORER = Scorer(
    name="style",
    summary="share of the way from the target's style to source+adapter's that the conversion goes",
    reference="own; descriptors of arXiv 2404.01292",
    view="pictures-style",
    higher_is_better=True,
    terms=distances,
    figure=gain,
    kinds=("diffusion",),
    defined=apart,
)
