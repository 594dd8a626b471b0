from __future__ import annotations

import pytest
import torch

from lorax.adapter import Site, SiteShape
from lorax.method import SiteInputs, Term
from lorax.norm_match import norm_matched, weight_ratio
from lorax.operators import Dense, Identity


def site(source: torch.Tensor, target: torch.Tensor) -> SiteInputs:
    name = Site("unet", "toy")
    return SiteInputs(
        target=name,
        source=name,
        target_shape=SiteShape.of(tuple(target.shape)),
        source_shape=SiteShape.of(tuple(source.shape)),
        target_weight=lambda: target,
        source_weight=lambda: source,
        statistics=None,
        generator=torch.Generator(),
    )


def test_the_ratio_is_that_of_the_weights_norms_and_one_where_there_is_nothing_to_compare_with() -> None:
    weight = torch.ones(4, 3)

    assert weight_ratio(site(weight, 2.5 * weight)) == pytest.approx(2.5)
    assert weight_ratio(site(0 * weight, weight)) == 1.0


def test_the_rule_is_laid_down_in_the_term_and_changes_nothing_else_of_it() -> None:
    weight = torch.ones(4, 3)
    term = Term(Identity(), Dense(0.5 * torch.eye(3)), per_channel=True, figures={"rank": 3.0})

    found = norm_matched(term, site(weight, 2.5 * weight))

    assert found.norm_ratio == pytest.approx(2.5)
    assert (found.output, found.input, found.per_channel) == (term.output, term.input, True)
    assert found.figures == {"rank": 3.0}
