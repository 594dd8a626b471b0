"""CLIP on its own: the vision and the text encoder of one model, in the names of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from lorax.base_model import BaseModel, Family
from lorax.inventories.known import as_it_is, holds_model_type, known_base, whole_folder
from lorax.inventories.text_encoders import CLIP_TABLES, clip_text
from lorax.inventories.translation import renamed
from lorax.inventory import Parameter, Parameters, convolution, linear, norm, table
from lorax.naming import own_names

NAME = "clip"
_SIDE = 224


@dataclass(frozen=True, slots=True)
class _Clip:
    """Describes a CLIPModel; shared: width of the space that both encoders are projected to."""

    layers: int
    width: int
    patch: int
    shared: int
    text_width: int

    def parameters(self) -> Parameters:
        """Lists all parameters."""
        yield Parameter("logit_scale", ())
        yield from clip_text(12, self.text_width, projection=self.shared)
        yield from self._vision("vision_model")
        yield from linear("visual_projection", self.shared, self.width, bias=False)

    def _vision(self, path: str) -> Parameters:
        width = self.width
        yield Parameter(f"{path}.embeddings.class_embedding", (width,))
        yield from convolution(f"{path}.embeddings.patch_embedding", width, 3, self.patch, self.patch, bias=False)
        yield from table(f"{path}.embeddings.position_embedding", (_SIDE // self.patch) ** 2 + 1, width)
        yield from norm(f"{path}.pre_layrnorm", width)  # spelled so in transformers
        for number in range(self.layers):
            layer = f"{path}.encoder.layers.{number}"
            for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
                yield from linear(f"{layer}.self_attn.{part}", width, width)
            yield from norm(f"{layer}.layer_norm1", width)
            yield from linear(f"{layer}.mlp.fc1", 4 * width, width)
            yield from linear(f"{layer}.mlp.fc2", width, 4 * width)
            yield from norm(f"{layer}.layer_norm2", width)
        yield from norm(f"{path}.post_layernorm", width)


_MODELS = {
    "clip-vit-base-patch32": _Clip(12, 768, 32, 512, 512),
    "clip-vit-base-patch16": _Clip(12, 768, 16, 512, 512),
    "clip-vit-large-patch14": _Clip(24, 1024, 14, 768, 768),
}


def _labels(name: str) -> tuple[str, ...]:
    # The model for larger images has other positions, and the same weights by name and shape.
    larger = ("openai/clip-vit-large-patch14-336",) if name == "clip-vit-large-patch14" else ()
    return (f"openai/{name}", *larger)


@cache
def _versions() -> tuple[BaseModel, ...]:
    return tuple(
        known_base(name, family=NAME, labels=_labels(name), components={"model": model.parameters()})
        for name, model in _MODELS.items()
    )


FAMILY = Family(
    name=NAME,
    summary="CLIP on its own, vision and text",
    versions=_versions,
    recognises=holds_model_type("clip"),
    components=whole_folder,
    canonical=as_it_is,
    not_sites=CLIP_TABLES,
    spoken={name: (name, name) for name in _MODELS},
    parameters={
        "clip-vit-base-patch32": 151_277_313,
        "clip-vit-base-patch16": 149_620_737,
        "clip-vit-large-patch14": 427_616_513,
    },
    # transformers 5.6 and later leave the level out of CLIPVisionModel; of the text model alone the width differs.
    namings={
        "own": own_names,
        "vision": renamed("model", lambda path: path.removeprefix("vision_model.")),
    },
    # Only the patches and their number differ.
    equal_architectures=(frozenset({"clip-vit-base-patch32", "clip-vit-base-patch16"}),),
)
