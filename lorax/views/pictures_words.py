"""pictures-words: pictures beside their prompts, by encoders that see both in one space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorax.drawn_pictures import DrawnPictures, PictureLook, looks
from lorax.encoder import Encoder
from lorax.picture_model import PictureModel
from lorax.view import Look, Scene, View

PROMPTS = "prompts"
"""What the points of the prompts are given as."""


def look(scene: Scene) -> Mapping[str, Look]:
    """Returns points (pictures, d), and those of the prompts as `prompts`, by encoders of likeness that read."""

    def open_one(encoder: Encoder, drawn: DrawnPictures, model: PictureModel[Any]) -> PictureLook | None:
        words = encoder.words(drawn.prompts(model)) if encoder.asks == "likeness" else None
        if words is None:
            return None
        return PictureLook(
            model,
            scene.settings.pictures,
            lambda model, adapter: drawn.points(encoder, model, adapter),
            {PROMPTS: words},
        )

    return looks(scene, VIEW.name, open_one)


VIEW = View("pictures-words", "pictures drawn from equal noise, beside their prompts", shared=False, open=look)
