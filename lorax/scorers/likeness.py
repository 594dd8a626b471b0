"""likeness: how much nearer the conversion's pictures are to source+adapter's than those of the plain target.

1 - sum (1 - cos(converted, source+adapter)) / sum (1 - cos(target, source+adapter)) over pictures drawn for equal
prompts from equal noise: 1 would be the same pictures, 0 is what doing nothing reaches, below 0 is harm. The cosines
are CLIP-I and DINO as DreamBooth measures fidelity (Ruiz et al., arXiv 2208.12242); taken as a gain they compare
between encoders.
"""

from __future__ import annotations

from lorax.nearness import apart, distances, gain
from lorax.scorer import Scorer

SCORER = Scorer(
    name="likeness",
    summary="share of the way from the target's pictures to source+adapter's that the conversion's go",
    reference="own; cosines as in arXiv 2208.12242",
    view="pictures",
    higher_is_better=True,
    terms=distances,
    figure=gain,
    kinds=("diffusion",),
    defined=apart,
)
