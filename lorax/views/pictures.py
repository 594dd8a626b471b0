"""pictures: what encoders see in the pictures that each model draws from equal noise for the adapter's own words."""

from __future__ import annotations

from collections.abc import Mapping

from lorax.drawn_pictures import point_looks
from lorax.view import Look, Scene, View


def look(scene: Scene) -> Mapping[str, Look]:
    """Returns points (pictures, d) by every encoder that is asked about likeness."""
    return point_looks(scene, VIEW.name, asks="likeness")


VIEW = View("pictures", "pictures drawn from equal noise, as encoders see them", shared=False, open=look)
