"""Matrices of known singular values, of every kind that a weight may have."""

from __future__ import annotations

import torch
from torch import Tensor

SPECTRA = ("flat", "gaussian", "power", "steep", "clustered", "deficient", "outliers")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Returns standard normal numbers, float32."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def spectrum(kind: str, size: int) -> Tensor:
    """Returns `size` falling singular values, float64, the first of them about 1."""
    index = torch.arange(1, size + 1, dtype=torch.float64)
    kinds = {
        "flat": torch.ones(size, dtype=torch.float64),
        "gaussian": torch.linspace(1, 0.5 / size, size, dtype=torch.float64),
        "power": index**-0.7,
        "steep": index**-3.0,
        "clustered": torch.where(index <= size // 4, 1.0, torch.where(index <= size // 2, 0.3, 0.02)),
        "deficient": torch.where(index <= size // 3, 1 / index.sqrt(), 0.0),
        "outliers": torch.where(index <= 3, 1.0, 0.02 / index.sqrt()),
    }
    return kinds[kind]


def weight_of(values: Tensor, rows: int, columns: int, *, seed: int = 0) -> Tensor:
    """Returns a float32 weight (rows, columns) with these singular values between random directions."""
    left, right = (
        torch.linalg.qr(drawn(side, values.numel(), seed=seed + side).double())[0] for side in (rows, columns)
    )
    weight: Tensor = (left * values @ right.T).float()
    return weight


def energy_outside(weight: Tensor, left: Tensor) -> float:
    """Returns the squared norm of a weight outside the columns of a basis of its output side, in float64."""
    exact, basis = weight.double(), left.double()
    return float((exact - basis @ (basis.T @ exact)).square().sum())
