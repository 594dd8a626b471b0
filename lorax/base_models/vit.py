"""ViT image classifiers, in the names of their checkpoints; transformers 5 and later call the modules otherwise."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from lorax.base_model import BaseModel, Family
from lorax.inventories.known import holds_model_type, known_base, whole_folder
from lorax.inventories.translation import renamed
from lorax.inventory import Parameter, Parameters, convolution, linear, norm
from lorax.naming import own_names

NAME = "vit"
_STEM = "vit."
_BARE = ("embeddings.", "encoder.", "layers.", "layernorm", "pooler.")


@dataclass(frozen=True, slots=True)
class _ViT:
    """Describes a ViTForImageClassification; labels: 0 for the model without head, which has a pooler instead."""

    layers: int
    width: int
    labels: int
    patch: int = 16
    side: int = 224

    def parameters(self) -> Parameters:
        """Lists all parameters."""
        width = self.width
        yield Parameter("vit.embeddings.cls_token", (1, 1, width))
        yield Parameter("vit.embeddings.position_embeddings", (1, (self.side // self.patch) ** 2 + 1, width))
        yield from convolution("vit.embeddings.patch_embeddings.projection", width, 3, self.patch, self.patch)
        for number in range(self.layers):
            path = f"vit.encoder.layer.{number}"
            for part in ("query", "key", "value"):
                yield from linear(f"{path}.attention.attention.{part}", width, width)
            yield from linear(f"{path}.attention.output.dense", width, width)
            yield from linear(f"{path}.intermediate.dense", 4 * width, width)
            yield from linear(f"{path}.output.dense", width, 4 * width)
            yield from norm(f"{path}.layernorm_before", width)
            yield from norm(f"{path}.layernorm_after", width)
        yield from norm("vit.layernorm", width)
        if self.labels:
            yield from linear("classifier", self.labels, width)
        else:
            yield from linear("vit.pooler.dense", width, width)


_RENAMED = (
    ("encoder.layer.", "layers."),
    ("attention.attention.query", "attention.q_proj"),
    ("attention.attention.key", "attention.k_proj"),
    ("attention.attention.value", "attention.v_proj"),
    ("attention.output.dense", "attention.o_proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
)
"""What a checkpoint calls a part of a module's path, and what transformers 5 and later call it, in this order."""


def new_name(path: str) -> str:
    """Gives what transformers 5 and later call a module."""
    for old, new in _RENAMED:
        path = path.replace(old, new)
    return path


def _old_name(path: str) -> str:
    for old, new in reversed(_RENAMED):
        path = re.sub(rf"(?<![a-z_.]){re.escape(new)}|(?<=\.){re.escape(new)}", old, path)
    return path


def _canonical(_component: str, module: str) -> str:
    return _old_name(f"{_STEM}{module}" if module.startswith(_BARE) else module)


_MODELS = {
    "vit-base-patch16-224": _ViT(12, 768, 1000),
    "vit-base-patch16-224-in21k": _ViT(12, 768, 0),
    "vit-base-patch32-384": _ViT(12, 768, 1000, patch=32, side=384),
    "vit-large-patch16-224": _ViT(24, 1024, 1000),
    "vit-large-patch16-224-in21k": _ViT(24, 1024, 0),
}


@cache
def _versions() -> tuple[BaseModel, ...]:
    return tuple(
        known_base(name, family=NAME, labels=(f"google/{name}",), components={"model": model.parameters()})
        for name, model in _MODELS.items()
    )


FAMILY = Family(
    name=NAME,
    summary="ViT image classifiers",
    versions=_versions,
    recognises=holds_model_type("vit"),
    components=whole_folder,
    canonical=_canonical,
    spoken={name: (name, name) for name in _MODELS},
    parameters={
        "vit-base-patch16-224": 86_567_656,
        "vit-base-patch16-224-in21k": 86_389_248,
        "vit-base-patch32-384": 88_297_192,
        "vit-large-patch16-224": 304_326_632,
        "vit-large-patch16-224-in21k": 304_351_232,
    },
    namings={
        "own": own_names,
        "transformers-5": renamed("model", new_name),
        "headless": renamed("model", lambda path: path.removeprefix(_STEM)),
        "headless-transformers-5": renamed("model", lambda path: new_name(path.removeprefix(_STEM))),
    },
    # Head or pooler aside, the layers are equal.
    equal_architectures=(
        frozenset({"vit-base-patch16-224", "vit-base-patch16-224-in21k", "vit-base-patch32-384"}),
        frozenset({"vit-large-patch16-224", "vit-large-patch16-224-in21k"}),
    ),
)
