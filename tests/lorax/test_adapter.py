from __future__ import annotations

import pytest
import torch

from lorax.adapter import LowRank, Site, SiteShape
from tests.stand_ins.adapter_files import random_adapter, small_base


def test_a_site_reads_back_what_it_writes() -> None:
    site = Site("unet", "down_blocks.0.attentions.1.proj_in")

    assert str(site) == "unet:down_blocks.0.attentions.1.proj_in"
    assert Site.parse(str(site)) == site


@pytest.mark.parametrize("text", ["", "unet", "unet:", ":conv_in"])
def test_a_text_without_component_and_path_is_no_site(text: str) -> None:
    with pytest.raises(ValueError, match="component:path"):
        Site.parse(text)


def test_sites_sort_by_component_then_path() -> None:
    assert sorted([Site("unet", "a"), Site("text_encoder", "b"), Site("text_encoder", "a")]) == [
        Site("text_encoder", "a"),
        Site("text_encoder", "b"),
        Site("unet", "a"),
    ]


@pytest.mark.parametrize(
    ("shape", "columns", "weight_shape"),
    [
        (SiteShape(4, 6), 6, (4, 6)),
        (SiteShape(4, 6, (1, 1)), 6, (4, 6, 1, 1)),
        (SiteShape(4, 6, (3, 3)), 54, (4, 6, 3, 3)),
    ],
)
def test_a_shape_knows_its_matrix_and_its_tensor(shape: SiteShape, columns: int, weight_shape: tuple[int, ...]) -> None:
    assert (shape.columns, shape.weight_shape) == (columns, weight_shape)
    assert str(shape) == "x".join(map(str, weight_shape))


@pytest.mark.parametrize("kernel", [None, (1, 1), (3, 3)])
def test_the_norm_is_that_of_the_dense_update(kernel: tuple[int, int] | None) -> None:
    generator = torch.Generator().manual_seed(3)
    columns = 10 * (kernel[0] * kernel[1] if kernel else 1)
    up, down = torch.randn(7, 3, generator=generator), torch.randn(3, columns, generator=generator)
    update = LowRank(up, down, -0.25, kernel)

    assert update.norm() == pytest.approx(float(torch.linalg.norm(update.dense())), rel=1e-5)
    assert update.dense().shape == ((7, 10) if kernel is None else (7, 10, *kernel))
    assert (update.rank, update.out_features, update.columns) == (3, 7, columns)


def test_a_convolution_update_is_what_two_convolutions_do() -> None:
    generator = torch.Generator().manual_seed(4)
    down, up = torch.randn(2, 3, 3, 3, generator=generator), torch.randn(5, 2, 1, 1, generator=generator)
    image = torch.randn(1, 3, 6, 6, generator=generator)
    update = LowRank(up.reshape(5, 2), down.reshape(2, -1), 0.5, (3, 3))

    two_steps = torch.nn.functional.conv2d(torch.nn.functional.conv2d(image, down), up) * 0.5

    assert torch.allclose(torch.nn.functional.conv2d(image, update.dense()), two_steps, atol=1e-5)


def test_an_adapter_knows_its_ranks_and_its_norm() -> None:
    adapter = random_adapter(small_base(), ranks=(4, 2, 2))

    assert adapter.ranks() == (2, 4)
    squares = sum(float((update.dense() ** 2).sum()) for update in adapter.updates.values())
    assert adapter.norm() == pytest.approx(squares**0.5, rel=1e-5)
