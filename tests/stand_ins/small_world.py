"""Makes a whole small migration: two tiny bases of one lineage, a catalogue of real files, and its settings."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from lorax.checkpoint import open_checkpoint
from lorax.write import write_adapter
from tests.stand_ins.tiny_bases import make_adapter, make_base, nudged

SOURCE, TARGET = "tiny-v1", "tiny-v2"
FREE = {"allowDerivatives": True, "allowNoCredit": True, "allowDifferentLicense": True, "allowCommercialUse": ["Image"]}
GOOD = ("alpha", "beta", "gamma")
STATES = {
    "alpha.safetensors": ("published", "gate-passed"),
    "beta.safetensors": ("published", "gate-passed"),
    "gamma.safetensors": ("published", "gate-passed"),
    "no_terms.safetensors": ("passed", "publish-not-allowed"),
    "alpha_again.safetensors": ("skipped", "duplicate"),
    "forbidden.safetensors": ("skipped", "no-derivatives"),
    "other_base.safetensors": ("skipped", "other-base"),
    "cut.safetensors": ("quarantined", "truncated"),
}
"""What has to become of each entry, (state, reason) by entry id."""

SETTINGS = f"""
name = "tiny"
[catalogue]
path = "catalogue"
[bases.{SOURCE}]
path = "bases/{SOURCE}"
labels = ["Tiny v1"]
[bases.{TARGET}]
path = "bases/{TARGET}"
labels = ["Tiny v2", "someone/tiny-v2"]
[[pairs]]
source = "{SOURCE}"
target = "{TARGET}"
method = "copy"
[score]
prompts = ["a digit", "a handwritten one"]
samples = 2
timesteps = [500]
steps = 2
[gate]
divergence_gain = -9.0
margin_over_random = -9.0
"""
"""A gate that lets every conversion pass: what is tested is the way, not the quality."""


@dataclass(frozen=True)
class SmallWorld:
    """A migration's settings file, and the folder that a run may fill."""

    settings: Path
    data: Path

    @property
    def catalogue(self) -> Path:
        """The folder with the adapters."""
        return self.settings.parent / "catalogue"

    @property
    def hub(self) -> Path:
        """The folder that conversions are published in."""
        return self.data / "hub"

    def published(self) -> list[str]:
        """Returns the conversion ids of everything on the hub, sorted, as often as they are there."""
        manifests = sorted(self.hub.glob("*/provenance.json"))
        return sorted(json.loads(path.read_bytes())["conversion_id"] for path in manifests)

    def copy_to(self, folder: Path) -> SmallWorld:
        """Returns a copy with a data folder of its own."""
        shutil.copytree(self.settings.parent, folder / "migration")
        return SmallWorld(folder / "migration" / self.settings.name, folder / "data")


def make_small_world(folder: Path) -> SmallWorld:
    """Writes bases, catalogue and settings into `folder`."""
    source = make_base(folder / "bases" / SOURCE, seed=1)
    nudged(source, folder / "bases" / TARGET, seed=2)
    catalogue = folder / "catalogue"
    catalogue.mkdir()
    for seed, name in enumerate(("alpha", "beta", "gamma", "no_terms", "forbidden")):
        add_adapter(folder, name, seed=seed, terms=None if name == "no_terms" else FREE)
    add_adapter(folder, "other_base", seed=9, base=TARGET)
    shutil.copyfile(catalogue / "alpha.safetensors", catalogue / "alpha_again.safetensors")
    (catalogue / "cut.safetensors").write_bytes((catalogue / "beta.safetensors").read_bytes()[:-100])
    write_terms(catalogue / "forbidden.civitai.info", {**FREE, "allowDerivatives": False})
    settings = folder / "migration.toml"
    settings.write_text(SETTINGS)
    return SmallWorld(settings, folder / "data")


def add_adapter(
    folder: Path, name: str, *, seed: int, base: str = SOURCE, terms: Mapping[str, object] | None = FREE
) -> Path:
    """Writes a kohya file made for `base`, with a sidecar where `terms` are given; returns its path."""
    model = open_checkpoint(folder / "bases" / base, name=base).base
    adapter = dataclasses.replace(make_adapter(model, seed=seed), dtype=torch.float32)
    [path] = write_adapter(adapter, folder / "catalogue", dialect="kohya", base=model, stem=name, metadata={})
    if terms is not None:
        write_terms(path.with_suffix(".civitai.info"), terms)
    return path


def write_terms(path: Path, terms: Mapping[str, object]) -> None:
    """Writes a sidecar as Civitai Helper does."""
    path.write_text(json.dumps({"model": {"type": "LORA", **terms}, "trainedWords": ["bold style"]}))
