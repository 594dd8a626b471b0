"""pictures-taste: how much people would like each picture for its prompt, as encoders that learnt it tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lorax.adapter import Adapter
from lorax.drawn_pictures import DrawnPictures, PictureLook, looks
from lorax.encoder import Encoder
from lorax.picture_model import PictureModel
from lorax.running_model import RunningModel
from lorax.view import Look, Scene, View


def look(scene: Scene) -> Mapping[str, Look]:
    """Returns preferences (pictures, 1) by every encoder that has any."""

    def open_one(encoder: Encoder, drawn: DrawnPictures, model: PictureModel[Any]) -> PictureLook | None:
        if encoder.asks != "preference":
            return None
        prompts = drawn.prompts(model)

        def liked(model: RunningModel, adapter: Adapter | None) -> Tensor:
            found = encoder.preferences(drawn.pixels(model, adapter), prompts)
            if found is None:
                raise TypeError(f"{type(encoder).__name__} asks about preference and has none")
            return found[:, None]

        return PictureLook(model, scene.settings.pictures, liked)

    return looks(scene, VIEW.name, open_one)


VIEW = View("pictures-taste", "preference for pictures drawn from equal noise", shared=False, open=look)
