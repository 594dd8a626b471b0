"""examples/digits for the fidelity bench: denoising error on held-out images of each style."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from bench.subjects import NEUTRAL, Example, Subject
from examples.digits import adapters, models, recipes, styles
from lorax.adapter import Adapter
from lorax.diffusion_model import DiffusionModel
from lorax.probe import ProbeSettings
from lorax.running_model import RunningModel

FOLDER = Path(styles.__file__).resolve().parent
TUNED = ("bold", "slanted", "thin", "inverted", "mirrored")
TARGETS = {
    "digits-v2": "later checkpoint",
    "digits-slim": "blocks removed",
    "digits-other": "unrelated training",
}
TIMESTEPS = (50, 150, 300, 450, 600, 750, 900)
IMAGES = 60


@torch.no_grad()
def loss(model: RunningModel, adapter: Adapter | None, task: str) -> Tensor:
    """Returns the mean squared error of the predicted noise of each held-out image of a style, over noise levels."""
    shown = cast("DiffusionModel", model)
    style = None if task == NEUTRAL else task
    pictures, labels = (each[:IMAGES] for each in styles.images(style, "test"))
    captions = styles.captions(style, labels, 7)
    total = torch.zeros(len(pictures))
    with model.patched(adapter):
        states = shown.encode(captions)
        for timestep in TIMESTEPS:
            noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(timestep))
            timesteps = torch.full((len(pictures),), timestep)
            noisy = shown.add_noise(pictures, noise, timesteps=timesteps)
            found = shown.predict(noisy.to(model.device), timesteps.to(model.device), states=states).cpu()
            total += (found - noise).square().flatten(1).mean(1)
    return total / len(TIMESTEPS)


def training(base: str, task: str, steps: int) -> float:
    """Returns the seconds that `steps` steps of the recipe of the natives take."""
    recipe = next(each for each in recipes.CATALOGUE if each.style == task)
    opened = models.open_base(FOLDER / "bases" / base)
    began = time.process_time()
    adapters.train_adapter(opened, recipe.native(0), like=recipe, steps=steps)
    return time.process_time() - began


def example() -> Example:
    """Returns the digits example: each style that was also trained natively, once."""
    index = json.loads((FOLDER / "index.json").read_text(encoding="utf-8"))
    subjects: dict[str, Subject] = {}
    for record in index["adapters"]:
        natives = {target: [FOLDER / path for path in paths] for target, paths in record["natives"].items()}
        if all(natives.values()) and record["style"] not in subjects:
            style = record["style"]
            subjects[style] = Subject(style, style in TUNED, FOLDER / record["weights"], natives)
    prompts = tuple(f"a handwritten {word}" for word in styles.WORDS)
    return Example(
        "digits",
        FOLDER / "bases",
        "digits-v1",
        TARGETS,
        list(subjects.values()),
        ProbeSettings(prompts=prompts, samples=40),
        ProbeSettings(prompts=prompts),
        loss,
        training,
        all_steps=recipes.STEPS,
    )
