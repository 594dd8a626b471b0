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


def test_a_map_that_halves_is_doubled() -> None:
    weight = torch.ones(4, 3)

    found = norm_matched(Term(Identity(), Dense(0.5 * torch.eye(3)), figures={"rank": 3.0}), site(weight, weight))

    assert found.figures == {"rank": 3.0, "norm_factor": pytest.approx(2.0)}
    assert torch.allclose(found.output.apply(torch.eye(4)), 2 * torch.eye(4))


@pytest.mark.parametrize(("per_channel", "size"), [(True, 3), (False, 27)])
def test_the_inputs_of_a_convolution_are_channels_or_columns(size: int, *, per_channel: bool) -> None:
    weight = torch.ones(4, 3, 3, 3)
    term = Term(Identity(), Dense(0.5 * torch.eye(size)), per_channel=per_channel)

    assert norm_matched(term, site(weight, weight)).figures["norm_factor"] == pytest.approx(2.0)


def test_a_map_that_keeps_nothing_is_left_alone() -> None:
    weight = torch.ones(4, 3)

    found = norm_matched(Term(Dense(torch.zeros(4, 4)), Identity()), site(weight, weight))

    assert found.figures["norm_factor"] == 1.0
