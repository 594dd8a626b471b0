"""Writes files as other tools do, reads them, and checks that no tensor of theirs is lost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from lorax.adapter import Adapter, Site, Update
from lorax.base_model import BaseModel
from lorax.base_models import known_bases
from lorax.errors import Refused
from lorax.inspection import Inspection, inspect_adapter
from lorax.read import AdapterFiles, read_adapter
from lorax.weight_file import write_weight_file

SD1 = ("sd1.5", "sd1.5-inpainting", "bk-sdm-base", "bk-sdm-small", "bk-sdm-tiny")
XL = ("sdxl", "sdxl-inpainting", "sdxl-refiner", "ssd-1b", "segmind-vega")
UNETS = (*SD1, "sd2.1", *XL)
FLUX = ("flux1-dev", "flux1-schnell", "flux1-control", "flux1-fill")
HUNYUAN = ("hunyuan-video-t2v", "hunyuan-video-i2v-33ch", "framepack")
WAN = (
    "wan2.1-t2v-1.3b", "wan2.1-t2v-14b", "wan2.1-i2v-14b", "wan2.2-ti2v-5b", "wan2.2-t2v-a14b", "wan2.2-i2v-a14b",
)  # fmt: skip
DITS = (*FLUX, *HUNYUAN, *WAN, "qwen-image", "sd3-medium", "sd3.5-medium", "sd3.5-large", "lumina2")
LLMS = (
    "tinyllama-1.1b", "llama-2-7b", "llama-3-8b", "llama-3.2-1b", "llama-3.2-3b", "mistral-7b", "mistral-7b-v0.3",
    "qwen2.5-0.5b", "qwen2.5-7b", "qwen3-0.6b", "qwen3-8b", "phi-3-mini", "gemma-2-9b",
)  # fmt: skip

Metadata = Mapping[str, str]
Config = Mapping[str, Any]


@cache
def _by_name() -> dict[str, BaseModel]:
    return {base.name: base for base in known_bases()}


def base(name: str) -> BaseModel:
    """Returns a known base model."""
    return _by_name()[name]


def bases(names: Sequence[str]) -> list[BaseModel]:
    """Returns known base models; alias tables are made for each of them, so few are quick."""
    return [base(name) for name in names]


def site(path: str, component: str = "unet") -> Site:
    """Returns a site."""
    return Site(component, path)


@dataclass(frozen=True)
class Wild:
    """Writes one adapter after the other into a folder and reads it."""

    folder: Path

    def files(
        self,
        tensors: Mapping[str, Tensor],
        metadata: Metadata | None = None,
        config: Config | None = None,
        name: str = "somebody/adapter.safetensors",
    ) -> AdapterFiles:
        """Writes the tensors, and a configuration beside them."""
        weights = self.folder / "adapter_model.safetensors"
        write_weight_file(weights, dict(tensors), metadata=dict(metadata or {}))
        if config is None:
            return AdapterFiles(weights, name=name)
        beside = self.folder / "adapter_config.json"
        beside.write_text(json.dumps(dict(config)))
        return AdapterFiles(weights, beside, name=name)

    def read(
        self,
        tensors: Mapping[str, Tensor],
        candidates: Sequence[str],
        metadata: Metadata | None = None,
        config: Config | None = None,
        labels: Sequence[str] = (),
    ) -> Adapter:
        """Reads a file and checks that every tensor of it is mapped or left out knowingly."""
        files = self.files(tensors, metadata, config)
        found = inspect_adapter(files, candidates=bases(candidates), labels=labels, headers_only=True)
        adapter = read_adapter(files, candidates=bases(candidates), labels=labels)
        assert found.tensors_unknown == 0
        assert found.tensors_mapped + found.tensors_unmappable == len(tensors)
        assert found.tensors_unmappable == len(adapter.unmappable)
        assert adapter.base.name is not None
        known = base(adapter.base.name)
        assert adapter.updates.keys() <= known.sites.keys() | known.tables.keys()
        return adapter

    def look(
        self,
        tensors: Mapping[str, Tensor],
        candidates: Sequence[str],
        metadata: Metadata | None = None,
        config: Config | None = None,
        labels: Sequence[str] = (),
    ) -> Inspection:
        """Tells what the header says."""
        files = self.files(tensors, metadata, config)
        return inspect_adapter(files, candidates=bases(candidates), labels=labels, headers_only=True)

    def refusal(
        self,
        tensors: Mapping[str, Tensor],
        candidates: Sequence[str],
        metadata: Metadata | None = None,
        config: Config | None = None,
        labels: Sequence[str] = (),
    ) -> Refused:
        """Reads a file that has to be refused and returns the refusal."""
        return self.refusal_of(self.files(tensors, metadata, config), candidates, labels)

    def refusal_of(self, files: AdapterFiles, candidates: Sequence[str], labels: Sequence[str] = ()) -> Refused:
        """Returns why files that were written are refused."""
        with pytest.raises(Refused) as raised:
            read_adapter(files, candidates=bases(candidates), labels=labels)
        return raised.value


def effect(update: Update, vector: Tensor) -> Tensor:
    """Returns what a low-rank update makes of a vector, as Adapter documents it: scale * up @ (down @ vector)."""
    low = update.low_rank()
    assert low is not None
    return low.scale * (low.up @ (low.down @ vector))
