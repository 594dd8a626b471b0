"""Importing this imports everything that computes, so that it can happen while something else is being waited for."""

from __future__ import annotations

from diffusers import DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from tasks import conversion, planning, publishing, reading, releasing, scoring, survey

__all__ = [
    "CLIPTextModel",
    "CLIPTokenizer",
    "DDIMScheduler",
    "UNet2DConditionModel",
    "conversion",
    "planning",
    "publishing",
    "reading",
    "releasing",
    "scoring",
    "survey",
]
