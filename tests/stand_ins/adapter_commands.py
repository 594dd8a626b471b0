"""What the tests of the commands for adapter files share: small adapters of known bases, written and asked about."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from flows import adapter_files as command
from flows.command_line import app
from lorax.adapter import Adapter, Site, Update
from lorax.base_model import BaseModel
from lorax.base_models import known_bases
from lorax.read import read_adapter
from lorax.weight_file import open_weight_file
from lorax.write import write_adapter
from tests.stand_ins.adapter_files import random_adapter

REPOSITORY = Path(__file__).resolve().parents[2]
GENUINE = REPOSITORY / "tests" / "genuine"
BASES = {base.name: base for base in known_bases()}
SD = BASES["sd1.5"]
Q = Site("unet", "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q")


def ask(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def small_adapter(base: BaseModel = SD, *, match: str = "mid_block.attentions.0.*attn", count: int = 12) -> Adapter:
    """An adapter on the few attention modules that match, with words in its header."""
    own = [site for site in sorted(base.sites) if re.search(match, str(site))][:count]
    few = replace(base, sites={site: base.sites[site] for site in own})
    made = random_adapter(few, dtype=torch.float32, scales=(0.5,))
    metadata = {"modelspec.author": "somebody", "modelspec.trigger_phrase": "zebra"}
    return replace(
        made, updates={site: made.updates[site] for site in own}, metadata=metadata, trigger_words=("zebra",)
    )


def written(adapter: Adapter, folder: Path, dialect: str, base: BaseModel = SD) -> Path:
    """The path to give to a command: of the file, or of the folder where there is a configuration."""
    paths = write_adapter(adapter, folder, dialect=dialect, base=base, stem="start", metadata={})
    return folder if any(path.suffix == ".json" for path in paths) else paths[0]


def read(path: Path, base: BaseModel = SD) -> Adapter:
    return read_adapter(command.adapter_files(path), candidates=[base])


def assert_same(found: Mapping[Site, Update], wanted: Mapping[Site, Update], *, tolerance: float = 1e-5) -> None:
    assert found.keys() == wanted.keys()
    for site, update in wanted.items():
        torch.testing.assert_close(found[site].dense(), update.dense(), rtol=tolerance, atol=tolerance)


def flux_file(path: Path) -> Adapter:
    """Writes an adapter of Flux whose header says nothing of the base."""
    adapter = small_adapter(
        BASES["flux1-dev"], match=r"context_embedder|:single_transformer_blocks\.\d\.proj_out", count=3
    )
    [start] = write_adapter(
        adapter, path.parent, dialect="kohya", base=BASES["flux1-dev"], stem="with-words", metadata={}
    )
    file = open_weight_file(start)
    save_file({name: file.read(name) for name in file.tensors}, path)
    start.unlink()
    return adapter
