"""Language models, as transformers saves them."""

from __future__ import annotations

from pathlib import Path

from lorax.language_model import LanguageModel, load_language_model
from lorax.opening import Opening
from lorax.pipeline import Pipeline


def _fits(folder: Path) -> bool:
    """Whether a model lies in the folder itself; which one, its own configuration says when it is opened."""
    return (folder / "config.json").is_file() and not (folder / "model_index.json").is_file()


def _load(opening: Opening) -> LanguageModel:
    return load_language_model(opening.folder, device=opening.device)


PIPELINE = Pipeline(
    name="language models",
    summary="Causal language models",
    parts=("config.json",),
    fits=_fits,
    load=_load,
)
