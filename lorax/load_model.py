"""Loading a base so that it can be run, whatever its kind."""

from __future__ import annotations

from pathlib import Path

import torch

from lorax.errors import Stop
from lorax.opening import Opening
from lorax.pipelines import PIPELINES, pipeline_of
from lorax.running_model import RunningModel


def load_model(folder: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> RunningModel:
    """Returns the model in a diffusers or transformers folder. Raises Stop for anything else.

    dtype: of the weights; torch.bfloat16 halves the memory on an accelerator. Outputs are float32 in any case.
    """
    found = pipeline_of(folder)
    if found is None:
        raise Stop(
            f"{folder}: this base cannot be run here, only its weights can be read. Expected is a diffusers folder or "
            f"a transformers folder: {'; '.join(pipeline.expected for pipeline in PIPELINES.values())}"
        )
    if reason := found.against(folder):
        raise Stop(f"{folder}: this base cannot be run here, only its weights can be read: {reason}")
    return found.load(Opening(folder, device, dtype))


def load_pair(
    source: Path, target: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[RunningModel, RunningModel]:
    """Returns both models of a base pair. Raises Stop where one does not open, or their outputs cannot be compared."""
    first, second = (load_model(folder, device=device, dtype=dtype) for folder in (source, target))
    first.require_comparable(second)
    return first, second
