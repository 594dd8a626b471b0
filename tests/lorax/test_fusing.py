"""Updates of the parts of a fused weight are put together and taken apart again without a change of what they do."""

from __future__ import annotations

import pytest
import torch

from lorax.adapter import LowRank, Site, SiteShape
from lorax.base_model import BaseModel
from lorax.errors import Unsupported
from lorax.fusing import fuse_updates, fuse_vectors
from lorax.naming import NamedModule, Part
from lorax.placing import split_update

Q, K, V = (Site("transformer", f"attn.to_{letter}") for letter in "qkv")
QKV = NamedModule(
    "transformer", "attn.qkv", (Part(Q, (0, 4)), Part(K, (4, 6)), Part(V, (6, 9))), SiteShape(9, 5)
)  # fmt: skip
SWAPPED = NamedModule("transformer", "final", (Part(Q, (0, 4), swapped=True),), SiteShape(4, 5))
EXPERTS = NamedModule(
    "model", "experts.up", tuple(Part(Site("model", f"up[{i}]")) for i in range(3)), SiteShape(4, 5), experts=True
)


def update(rows: int, rank: int, *, scale: float = 0.5, seed: int = 0) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    return LowRank(torch.randn(rows, rank, generator=generator), torch.randn(rank, 5, generator=generator), scale)


def dense_of(parts: dict[Site, LowRank]) -> torch.Tensor:
    whole = torch.zeros(9, 5)
    for part in QKV.parts:
        if part.site in parts and part.rows is not None:
            whole[slice(*part.rows)] = parts[part.site].dense()
    return whole


@pytest.mark.parametrize("sites", [(Q, K, V), (Q, V), (K,)])
@pytest.mark.parametrize("scales", [(0.5, 0.5, 0.5), (0.5, 1.0, 3.0)])
def test_the_parts_of_a_fused_weight_are_its_rows(sites: tuple[Site, ...], scales: tuple[float, ...]) -> None:
    heights = {Q: 4, K: 2, V: 3}
    parts = {
        site: update(heights[site], rank, scale=scale, seed=rank)
        for site, rank, scale in zip(sites, (1, 2, 3), scales, strict=False)
    }

    fused = fuse_updates(parts, QKV)

    assert isinstance(fused, LowRank)
    torch.testing.assert_close(fused.dense(), dense_of(parts))
    assert fused.rank == sum(each.rank for each in parts.values())


def test_parts_that_share_their_down_factor_share_it_again() -> None:
    whole = update(9, 3)

    parts = dict(split_update(whole, QKV, "qkv"))
    again = fuse_updates(parts, QKV)

    assert isinstance(again, LowRank)
    assert torch.equal(again.up, whole.up)
    assert torch.equal(again.down, whole.down)
    assert {each.rank for each in parts.values() if isinstance(each, LowRank)} == {3}


def test_blocks_along_the_diagonal_fall_apart_into_their_own_ranks() -> None:
    parts = {Q: update(4, 2, seed=1), K: update(2, 2, seed=2), V: update(3, 2, seed=3)}

    again = dict(split_update(fuse_updates(parts, QKV), QKV, "qkv"))

    assert again.keys() == parts.keys()
    for site, part in parts.items():
        found = again[site]
        assert isinstance(found, LowRank)
        assert torch.equal(found.up, part.up)
        assert torch.equal(found.down, part.down)


def test_a_column_of_zeros_at_the_edge_of_a_block_stays_with_it() -> None:
    parts = {Q: update(4, 2, seed=1), K: update(2, 2, seed=2), V: update(3, 2, seed=3)}
    parts[K].up[:, 1] = 0

    again = dict(split_update(fuse_updates(parts, QKV), QKV, "qkv"))

    assert {site: each.rank for site, each in again.items() if isinstance(each, LowRank)} == {Q: 2, K: 2, V: 2}


def test_blocks_of_several_ranks_fall_apart_too() -> None:
    parts = {Q: update(4, 1, seed=1), K: update(2, 3, seed=2), V: update(3, 2, seed=3)}

    again = dict(split_update(fuse_updates(parts, QKV), QKV, "qkv"))

    assert {site: each.rank for site, each in again.items() if isinstance(each, LowRank)} == {Q: 1, K: 3, V: 2}


def test_halves_that_lie_the_other_way_round_are_turned() -> None:
    one = update(4, 2)

    fused = fuse_updates({Q: one}, SWAPPED)
    ((site, again),) = split_update(fused, SWAPPED, "final")

    assert site == Q
    torch.testing.assert_close(fused.dense(), torch.cat([one.dense()[2:], one.dense()[:2]]))
    assert torch.equal(again.dense(), one.dense())


def test_experts_are_stacked_as_peft_stacks_them() -> None:
    parts = {part.site: update(4, 2, seed=index) for index, part in enumerate(EXPERTS.parts)}

    fused = fuse_updates(parts, EXPERTS)
    again = dict(split_update(fused, EXPERTS, "experts"))

    assert isinstance(fused, LowRank)
    assert (fused.up.shape, fused.down.shape) == ((4, 6), (6, 5))
    torch.testing.assert_close(fused.up.reshape(4, 2, 3)[:, :, 1], parts[EXPERTS.parts[1].site].up)
    for site, part in parts.items():
        assert torch.equal(again[site].dense(), part.dense())


def test_experts_of_several_ranks_cannot_be_stacked() -> None:
    parts = {part.site: update(4, 1 + index, seed=index) for index, part in enumerate(EXPERTS.parts)}

    with pytest.raises(Unsupported, match="several ranks") as raised:
        fuse_updates(parts, EXPERTS)

    assert raised.value.reason == "unwritable"


def test_vectors_of_parts_become_the_vector_of_the_whole() -> None:
    bases = {Site("transformer", f"{site.path}.bias"): size for site, size in ((Q, 4), (K, 2), (V, 3))}
    base = BaseModel("b", "none", "custom", {}, vectors=bases)
    found = {Site("transformer", "attn.to_k.bias"): torch.ones(2)}

    assert fuse_vectors(found, QKV, base, "bias").tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0]
