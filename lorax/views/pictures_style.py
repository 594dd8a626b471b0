"""pictures-style: the style that encoders see in the pictures that each model draws from equal noise."""

from __future__ import annotations

from collections.abc import Mapping

from lorax.drawn_pictures import point_looks
from lorax.view import Look, Scene, View


def look(scene: Scene) -> Mapping[str, Look]:
    """Returns descriptors (pictures, d) by every encoder that is asked about style."""
    return point_looks(scene, VIEW.name, asks="style")


VIEW = View("pictures-style", "the style of pictures drawn from equal noise", shared=False, open=look)
