"""Kinds of bases that can be run, one file each: how a folder is told, and how it becomes a running model."""

from __future__ import annotations

from pathlib import Path

from lorax.pipeline import Pipeline
from lorax.plug_ins import collect

PIPELINES: dict[str, Pipeline] = collect(__name__, "PIPELINE", Pipeline)
"""Every kind by name."""


def pipeline_of(folder: Path) -> Pipeline | None:
    """Returns the kind of pipeline that a folder holds, None where it is none that can be run."""
    return next((pipeline for pipeline in PIPELINES.values() if pipeline.fits(folder)), None)


def why_not(folder: Path) -> str:
    """Says why a folder cannot be run, and what is expected; "" where nothing is known against it."""
    found = pipeline_of(folder)
    return found.against(folder) if found is not None else f"this version runs {', '.join(PIPELINES)}"
