"""own-samples: what the models say to what source+adapter draws or writes itself, for the adapter's own words."""

from __future__ import annotations

from collections.abc import Mapping

from lorax.probe_look import ProbeLook, at_once
from lorax.view import Look, Scene, View


def look(scene: Scene) -> Mapping[str, Look]:
    """Draws the samples."""
    probe = scene.own_samples()
    return {VIEW.name: ProbeLook(probe, batch=at_once(scene, probe))}


VIEW = View("own-samples", "outputs on what source+adapter draws or writes itself", shared=False, open=look)
