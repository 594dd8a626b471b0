"""Whatever shapes a file claims, a layout refuses them or the update can be formed."""

from __future__ import annotations

import math
from itertools import chain, combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorax.adapter import SiteShape
from lorax.algorithm import Algorithm, Layout
from lorax.algorithms import ALGORITHMS
from lorax.errors import BadFile, Unsupported
from lorax.safe_header import ReadLimits, TensorEntry

MOVED = [algorithm for algorithm in ALGORITHMS.values() if not algorithm.refusal]
every_algorithm = pytest.mark.parametrize("algorithm", MOVED, ids=lambda algorithm: algorithm.name)
# Few and small sizes, so that tensors fit each other by accident often enough.
shapes = st.lists(st.sampled_from([1, 2, 2, 3, 4]), max_size=5).map(tuple)
sites = st.one_of(
    st.tuples(*[st.sampled_from([1, 2, 4, 6, 12])] * 2),
    st.tuples(*[st.sampled_from([1, 2, 4])] * 2, *[st.sampled_from([1, 2, 3])] * 2),
)


def role_sets(algorithm: Algorithm) -> list[list[str]]:
    """Lists the sets of roles that an algorithm claims; of those DoRA can be built on, each with a magnitude."""
    if algorithm.name == "dora":
        inner = [roles for name in ("lora", "loha", "lokr") for roles in role_sets(ALGORITHMS[name])]
        return [[*roles, magnitude] for roles in inner for magnitude in ("magnitude", "magnitude_out")]
    optional = sorted(algorithm.optional)
    subsets = chain.from_iterable(combinations(optional, count) for count in range(len(optional) + 1))
    found = (sorted(algorithm.required.union(subset)) for subset in subsets)
    return [roles for roles in found if algorithm.claims_roles(frozenset(roles))]


def described(shapes_by_role: dict[str, tuple[int, ...]]) -> dict[str, TensorEntry]:
    return {role: TensorEntry(role, "F32", shape, 0, 0) for role, shape in shapes_by_role.items()}


def layout_of(algorithm: Algorithm, shapes_by_role: dict[str, tuple[int, ...]]) -> Layout | None:
    """Gives the layout, None where the shapes are refused as they should be."""
    assert algorithm.layout is not None
    try:
        return algorithm.layout(described(shapes_by_role), ReadLimits(rank_to_width=100))
    except BadFile as error:
        reason = error.reason
    assert reason in {"bad-shape", "incomplete-pair", "rank-too-large"}
    return None


@every_algorithm
@given(data=st.data(), site=sites)
def test_a_layout_refuses_or_means_something(algorithm: Algorithm, data: st.DataObject, site: tuple[int, ...]) -> None:
    roles = data.draw(st.sampled_from(role_sets(algorithm)))
    by_role = {role: data.draw(shapes) for role in roles}
    wanted = SiteShape.of(site)

    layout = layout_of(algorithm, by_role)

    if layout is not None and layout.fits(wanted):
        tensors = {role: torch.ones(shape) for role, shape in by_role.items()}
        assert algorithm.decode is not None
        try:
            update = algorithm.decode(tensors, 1.0, wanted)
        except (BadFile, Unsupported):
            # IA3 learns only from a value which side of the weight it scales.
            assert algorithm.name == "ia3"
            return
        assert update.dense(torch.ones(wanted.weight_shape)).shape == wanted.weight_shape


@every_algorithm
@given(data=st.data())
def test_sizes_near_the_limits_of_numbers_are_refused_or_computed_at_once(
    algorithm: Algorithm, data: st.DataObject
) -> None:
    huge = st.lists(st.sampled_from([1, 2, 2**20, 2**40, 2**62]), min_size=1, max_size=5).map(tuple)
    by_role = {role: data.draw(huge) for role in data.draw(st.sampled_from(role_sets(algorithm)))}

    layout = layout_of(algorithm, by_role)

    if layout is not None and layout.shape is not None:
        assert math.prod(layout.shape.weight_shape) > 0
