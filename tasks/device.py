"""Which device a worker computes on."""

from __future__ import annotations

import os
from collections.abc import Mapping

VARIABLE = "LORAX_DEVICE"


def device(environment: Mapping[str, str] = os.environ) -> str:
    """Returns the device that LORAX_DEVICE names, else `cuda` where there is one, else `cpu`."""
    if chosen := environment.get(VARIABLE):
        return chosen
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
