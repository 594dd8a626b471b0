"""The bad files of the catalogue: what a folder collected over years also holds."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from examples.digits.writers import appearing

POKEMON = "pokemon_sd15.safetensors"
POKEMON_HASH = "b1cea8df6aa18356cc03cc125f06ab71366f2d78e74fd704c82accb585056f11"
PAGE = """<!DOCTYPE html>
<html lang="en">
<head><title>Sign in to download</title></head>
<body><h1>401 Unauthorized</h1><p>The creator of this asset requires you to be logged in to download it.</p></body>
</html>
"""


def _truncated(catalogue: Path, file: Path) -> None:
    whole = (catalogue / "outline.safetensors").read_bytes()
    file.write_bytes(whole[: len(whole) * 6 // 10])


def _all_nan(catalogue: Path, file: Path) -> None:
    source = catalogue / "inverted.safetensors"
    with safe_open(source, "pt") as opened:
        metadata = opened.metadata()
    spoilt = {name: torch.full_like(value, torch.nan) for name, value in load_file(source).items()}
    save_file(spoilt, file, metadata={**metadata, "ss_output_name": "all_nan"})


def _old_pickle(catalogue: Path, file: Path) -> None:
    torch.save(load_file(catalogue / "gradient_vertical.safetensors"), file)


def _download_page(catalogue: Path, file: Path) -> None:
    del catalogue
    file.write_text(PAGE)


def _bold_copy(catalogue: Path, file: Path) -> None:
    shutil.copyfile(catalogue / "bold.safetensors", file)


def _pokemon(catalogue: Path, file: Path) -> None:
    """Committed data, not ours to make: a genuine Stable Diffusion 1.5 adapter, kept in this catalogue."""
    del catalogue
    genuine = Path(__file__).parent / "catalogue" / POKEMON
    found = hashlib.sha256(genuine.read_bytes()).hexdigest()
    if found != POKEMON_HASH:
        raise ValueError(f"{genuine} is not the file that the README names: sha256 {found}, expected {POKEMON_HASH}")
    shutil.copyfile(genuine, file)


MAKERS: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "truncated.safetensors": (_truncated, "outline.safetensors cut at 60 %"),
    "all_nan.safetensors": (_all_nan, "the right names and shapes, every value NaN"),
    "old_pickle.pt": (_old_pickle, "a state dict written by torch.save"),
    "download_page.safetensors": (_download_page, "the HTML page of a refused download"),
    "bold_copy.safetensors": (_bold_copy, "bold.safetensors under another name, byte for byte"),
    POKEMON: (_pokemon, "an adapter for another family of models, Stable Diffusion 1.5"),
}
"""Maker and description of each bad file. `mystery` and `no_derivatives_striped` are sound files: see recipes.py."""


def make(name: str, catalogue: Path) -> None:
    """Write one bad file into the catalogue, unless it is there."""
    if not (catalogue / name).exists():
        with appearing(catalogue / name) as partial:
            MAKERS[name][0](catalogue, partial)
