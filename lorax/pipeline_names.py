"""Names of a whole pipeline: the component, a dot, the module's path: `transformer.transformer_blocks.0.attn.to_q`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lorax.base_model import BaseModel
from lorax.dialect import all_modules
from lorax.flat_names import spelled_paths
from lorax.naming import NamedModule

COMPONENTS = ("unet", "transformer", "transformer_2", "prior", "text_encoder", "text_encoder_2", "text_encoder_3")
"""Components that a name may start with."""
STARTS_WITH_COMPONENT = re.compile(rf"({'|'.join(COMPONENTS)}|text_encoder_4|connectors)\..+")
"""A tensor whose name starts with a component."""
DENOISERS = frozenset({"unet", "transformer"})
"""Components that are so much the main one that some files leave their name out."""


def pipeline_modules(base: BaseModel, *, first: str = "own") -> Iterator[tuple[str, NamedModule]]:
    """Lists the modules with their component before them, those of the denoiser also without.

    A model of transformers on its own has no component to name.
    """
    for module in all_modules(base, first=first):
        for path in spelled_paths(module):
            if module.component != "model":
                yield f"{module.component}.{path}", module
            if module.component in DENOISERS:
                yield path, module
