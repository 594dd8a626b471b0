"""Loading a base so that it can be run, whatever its kind."""

from __future__ import annotations

from pathlib import Path

from lorax.diffusion_model import load_diffusion_model
from lorax.errors import Stop
from lorax.language_model import load_language_model
from lorax.running_model import RunningModel


def load_model(folder: Path, *, device: str = "cpu") -> RunningModel:
    """Returns the model in a diffusers or transformers folder. Raises Stop for anything else."""
    if (folder / "unet").is_dir():
        return load_diffusion_model(folder, device=device)
    if (folder / "config.json").is_file():
        return load_language_model(folder, device=device)
    raise Stop(
        f"{folder}: this base cannot be run here, only its weights can be read. Expected is a diffusers folder with "
        "unet/, text_encoder/, tokenizer/ and scheduler/, or a transformers folder with config.json and the tokenizer."
    )


def load_pair(source: Path, target: Path, *, device: str = "cpu") -> tuple[RunningModel, RunningModel]:
    """Returns both models of a base pair. Raises Stop where one does not open, or their outputs cannot be compared."""
    first, second = (load_model(folder, device=device) for folder in (source, target))
    first.require_comparable(second)
    return first, second
