"""neutral: what the models say to what the two plain bases draw or write, where an adapter has no business."""

from __future__ import annotations

from collections.abc import Mapping

from lorax.probe_look import ProbeLook, at_once
from lorax.probes import PROBES
from lorax.view import Look, Scene, View


def look(scene: Scene) -> Mapping[str, Look]:
    """Draws the samples."""
    probe = PROBES["neutral"].draw(scene.source, scene.target, None, scene.probe)
    return {VIEW.name: ProbeLook(probe, batch=at_once(scene, probe))}


VIEW = View("neutral", "outputs on what the plain bases draw or write for neutral prompts", shared=True, open=look)
