"""Opening the parts of a pipeline's folder, each by its class in diffusers or transformers; nothing is fetched."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lorax.errors import Stop


@dataclass(frozen=True, slots=True)
class Opening:
    """Says where a base lies, and where and in which element type its weights are wanted."""

    folder: Path
    device: str = "cpu"
    dtype: torch.dtype = torch.float32

    def has(self, part: str) -> bool:
        """Tells whether there is a folder of this name."""
        return (self.folder / part).is_dir()

    def model(self, kind: Any, part: str) -> Any:  # noqa: ANN401 - a class of diffusers, and what it opens
        """Opens a model of diffusers, weights as safetensors only."""
        return self._ready(kind.from_pretrained(self.folder / part, torch_dtype=self.dtype, **_LOCAL))

    def encoder(self, kind: Any, part: str) -> Any:  # noqa: ANN401 - a class of transformers, and what it opens
        """Opens a model of transformers, weights as safetensors only."""
        return self._ready(kind.from_pretrained(self.folder / part, dtype=self.dtype, **_LOCAL))

    def vae(self, kind: Any) -> Any:  # noqa: ANN401 - a class of diffusers, and what it opens
        """Opens vae/, float32 in any case: it is small, and in half precision some of them overflow."""
        return self._ready(kind.from_pretrained(self.folder / "vae", torch_dtype=torch.float32, **_LOCAL))

    def tokenizer(self, kind: Any, part: str) -> Any:  # noqa: ANN401 - a class of transformers, and what it opens
        """Opens a tokenizer."""
        return kind.from_pretrained(self.folder / part, local_files_only=True)

    def _ready(self, model: Any) -> Any:  # noqa: ANN401 - a module
        return model.eval().to(self.device)


_LOCAL: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}


@contextlib.contextmanager
def opened(folder: Path, *, kind: str, expected: str) -> Iterator[None]:
    """Turns what loaders raise for a folder that is none of theirs into Stop, for the length of a `with` block."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # one bar per part and load would tear up the run's own
    try:
        yield
    except (OSError, ValueError) as error:
        raise Stop(
            f"{folder} cannot be opened as {kind}: {error}. Expected is {expected}, weights as safetensors"
        ) from error
