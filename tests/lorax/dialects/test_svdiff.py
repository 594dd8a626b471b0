"""Spectral shifts as svdiff-pytorch saves them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lorax.adapter import Site
from lorax.lowering import lower_adapter
from lorax.read import AdapterFiles, read_adapter
from lorax.weight_file import write_weight_file
from tests.stand_ins.adapter_files import small_base

BASE = small_base()
Q, CONV = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q", "mid_block.resnets.0.conv1"


@pytest.fixture
def shifts() -> dict[str, torch.Tensor]:
    sizes = {Q: 16, CONV: 16, "mid_block.resnets.0.norm1": 1}
    generator = torch.Generator().manual_seed(0)
    return {f"{path}.delta": torch.randn(size, generator=generator) for path, size in sizes.items()}


def test_shifts_of_weights_are_read_and_those_of_norms_left_out(
    shifts: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "spectral_shifts.safetensors"
    write_weight_file(path, shifts)

    adapter = read_adapter(AdapterFiles(path), candidates=[BASE])

    assert (adapter.dialect, adapter.algorithms) == ("svdiff", ("svdiff",))
    assert adapter.updates.keys() == {Site("unet", Q), Site("unet", CONV)}
    assert [name for name, _ in adapter.unmappable] == ["mid_block.resnets.0.norm1.delta"]


def test_shifts_move_the_singular_values_of_the_base(shifts: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "spectral_shifts.safetensors"
    write_weight_file(path, shifts)
    weights = {site: torch.randn(shape.weight_shape) for site, shape in BASE.sites.items()}

    lowered = lower_adapter(read_adapter(AdapterFiles(path), candidates=[BASE]), weights.__getitem__, rank=16)

    weight = weights[Site("unet", Q)]
    left, values, right = torch.linalg.svd(weight)
    moved = left @ torch.diag(torch.relu(values + shifts[f"{Q}.delta"])) @ right
    torch.testing.assert_close(
        weight + lowered.adapter.low_rank()[Site("unet", Q)].dense(), moved, rtol=1e-4, atol=1e-4
    )
