"""examples/text for the fidelity bench: nats per byte on held-out text of each domain."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.subjects import NEUTRAL, Example, Subject
from examples.text import adapters, models
from examples.text.measure import AT_ONCE, rows
from lorax.adapter import Adapter
from lorax.language_model import LanguageModel
from lorax.probe import ProbeSettings
from lorax.running_model import RunningModel

FOLDER = Path(models.__file__).resolve().parent
TUNED = ("shouting", "json", "disassembly")
TARGETS = {
    "text-v2": "later checkpoint",
    "text-other": "unrelated training",
    "text-wide": "unrelated, wider",
}


@torch.no_grad()
def loss(model: RunningModel, adapter: Adapter | None, task: str) -> Tensor:
    """Returns nats per byte of each held-out row of 256 bytes, the first given; of neutral text the second half."""
    inner = cast("LanguageModel", model).model
    content = (FOLDER / "held_out" / f"{task}.txt").read_bytes()
    tokens = rows(content[len(content) // 2 :] if task == NEUTRAL else content)
    found = []
    with model.patched(adapter):
        for batch in torch.split(tokens, AT_ONCE):
            logits = inner(input_ids=batch.to(model.device), use_cache=False).logits[:, :-1].cpu()
            found.append(F.cross_entropy(logits.transpose(1, 2), batch[:, 1:], reduction="none").mean(1))
    return torch.cat(found)


def calibration_text() -> str:
    """Writes the first half of the neutral sample, which no loss is measured on, and returns where it is."""
    content = (FOLDER / "held_out" / f"{NEUTRAL}.txt").read_bytes()
    place = Path(tempfile.gettempdir()) / "lorax-bench-neutral.txt"
    place.write_text(content[: len(content) // 2].decode(errors="ignore"), encoding="utf-8")
    return str(place)


def training(base: str, task: str, steps: int) -> float:
    """Returns the seconds that `steps` steps of the recipe of the natives take."""
    model = models.open_base(FOLDER / "bases" / base)
    began = time.process_time()
    adapters.train_adapter(model, task, seed=0, steps=steps)
    return time.process_time() - began


def example() -> Example:
    """Returns the text example."""
    index = json.loads((FOLDER / "index.json").read_text(encoding="utf-8"))
    name = "adapter_model.safetensors"
    subjects = [
        Subject(
            record["domain"],
            record["domain"] in TUNED,
            FOLDER / record["path"] / name,
            {target: [FOLDER / path / name for path in paths] for target, paths in record["natives"].items()},
        )
        for record in index["adapters"]
    ]
    probe = ProbeSettings(prompts=(), samples=128, length=128, text=calibration_text())
    score = ProbeSettings(prompts=(), samples=48, length=128)
    return Example(
        "text", FOLDER / "bases", "text-v1", TARGETS, subjects, probe, score, loss, training, all_steps=adapters.STEPS
    )
