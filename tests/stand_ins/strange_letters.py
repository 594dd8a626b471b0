"""Makes a migration between two tiny language models that were never related: a copy does nothing, a refresh much."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml

from lorax.checkpoint import open_checkpoint
from lorax.write import write_adapter
from tests.stand_ins.small_world import SmallWorld
from tests.stand_ins.tiny_bases import make_adapter
from tests.stand_ins.tiny_texts import make_text_base

SOURCE, TARGET = "letters-v1", "letters-other"

SETTINGS = f"""
name = "strangers"
[catalogue]
path = "catalogue"
[bases.{SOURCE}]
path = "bases/{SOURCE}"
labels = ["someone/{SOURCE}"]
[bases.{TARGET}]
path = "bases/{TARGET}"
labels = ["someone/{TARGET}"]
[[pairs]]
source = "{SOURCE}"
target = "{TARGET}"
method = "copy"
[score]
samples = 32
length = 12
rounds = 1
[gate]
divergence_gain = 0.3
"""
"""A gate that no copy comes through, and that a refresh of a hundred steps does."""


def make_strangers(folder: Path, names: Sequence[str] = ("loud", "plain"), *, target_width: int = 16) -> SmallWorld:
    """Writes two bases, an adapter for each name, and settings without a refresh into `folder`.

    target_width: another one than 16 for a target that no update of the source fits.
    """
    source = make_text_base(folder / "bases" / SOURCE, seed=1)
    make_text_base(folder / "bases" / TARGET, seed=3, width=target_width)
    base = open_checkpoint(source, name=SOURCE).base
    base = dataclasses.replace(base, labels=(f"someone/{SOURCE}",))
    card = yaml.safe_dump({"license": "apache-2.0", "base_model": f"someone/{SOURCE}"})
    for seed, name in enumerate(names):
        adapter = dataclasses.replace(make_adapter(base, match="proj", seed=seed, strength=2.0), dtype=torch.float32)
        write_adapter(adapter, folder / "catalogue" / name, dialect="peft", base=base, stem=name, metadata={})
        (folder / "catalogue" / name / "README.md").write_text(f"---\n{card}---\n# {name.title()}\n")
    (folder / "migration.toml").write_text(SETTINGS)
    return SmallWorld(folder / "migration.toml", folder / "data")


def allow_refresh(world: SmallWorld, **limits: float) -> None:
    """Says in the settings that what does not pass is refreshed, within limits, in place of what they said before."""
    said = "".join(f"{name} = {value}\n" for name, value in limits.items())
    world.settings.write_text(f"{SETTINGS}[refresh]\nallowed = true\n{said}")
