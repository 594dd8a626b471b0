"""Adapter files as three tools write them: sd-scripts (kohya), diffusers, peft. Independent of lorax on purpose.

Every writer builds its file or folder under a hidden name and renames it, so a half-written one is never seen.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save, save_file
from torch import Tensor

from examples.digits import cards
from examples.digits.adapters import Trained
from examples.digits.models import OWNER
from examples.digits.recipes import Recipe

WEIGHTS = "pytorch_lora_weights.safetensors"


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A hidden neighbour of a path to write to; it becomes the path at the end, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        if path.is_dir():
            shutil.rmtree(path)
        partial.replace(path)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        partial.unlink(missing_ok=True)


def _typed(tensor: Tensor, recipe: Recipe) -> Tensor:
    dtype: torch.dtype = getattr(torch, recipe.dtype)
    return tensor.to(dtype).contiguous()


def _canonical(component: str, path: str) -> str:
    """Module paths as files spell them: with `text_model.`, which transformers no longer has in its own names."""
    return f"text_model.{path}" if component == "text_encoder" and not path.startswith("text_model.") else path


def _canonical_tensors(trained: Trained) -> dict[str, dict[str, Tensor]]:
    """Per component, tensors by canonical path, in the precision asked for."""
    return {
        component: {_canonical(component, key): _typed(value, trained.recipe) for key, value in tensors.items()}
        for component, tensors in trained.tensors().items()
    }


def kohya_tensors(trained: Trained) -> dict[str, Tensor]:
    """sd-scripts' names: underscores for dots, lora_down / lora_up, a 0-dim alpha per module."""
    prefixes = {"unet": "lora_unet_", "text_encoder": "lora_te_"}
    named: dict[str, Tensor] = {}
    for component, tensors in _canonical_tensors(trained).items():
        for key, value in tensors.items():
            path, side = key.removesuffix(".weight").rsplit(".", 1)
            module = prefixes[component] + path.replace(".", "_")
            named[f"{module}.{'lora_down' if side == 'lora_A' else 'lora_up'}.weight"] = value
            named[f"{module}.alpha"] = _typed(torch.tensor(float(trained.recipe.alpha)), trained.recipe)
    return named


def body_hashes(tensors: dict[str, Tensor]) -> tuple[str, str]:
    """sd-scripts' sshs_model_hash and sshs_legacy_hash of a file with these tensors.

    The first is the sha256 of everything behind the header, the second of 64 KiB at 1 MiB, cut to eight digits.
    """
    content = save(tensors)
    length = int.from_bytes(content[:8], "little")
    whole = hashlib.sha256(content[8 + length :]).hexdigest()
    return whole, hashlib.sha256(content[0x100000 : 0x100000 + 0x10000]).hexdigest()[:8]


def write_kohya(trained: Trained, catalogue: Path, base_hash: str) -> None:
    """NAME.safetensors and, where described, NAME.civitai.info."""
    recipe = trained.recipe
    tensors = kohya_tensors(trained)
    file = catalogue / recipe.path
    hashes = body_hashes(tensors)
    metadata = cards.kohya_metadata(recipe, base_hash, hashes) if recipe.described else None
    with appearing(file) as partial:
        save_file(tensors, partial, metadata=metadata)
    if recipe.described:
        sidecar = cards.civitai_info(recipe, file, hashes[0])
        with appearing(catalogue / f"{recipe.name}.civitai.info") as partial:
            partial.write_text(json.dumps(sidecar, indent=2) + "\n")


def _config_values(trained: Trained) -> dict[str, dict[str, object]]:
    """Configuration by peft per component, sets sorted so that two runs write the same bytes."""
    parts = {"unet": trained.unet, "text_encoder": trained.text_encoder}
    values: dict[str, dict[str, object]] = {}
    for name, part in parts.items():
        if part is not None:
            config = part.peft_config["default"].to_dict()
            values[name] = {key: sorted(item) if isinstance(item, set) else item for key, item in config.items()}
    return values


def save_diffusers(trained: Trained, folder: Path, file_name: str) -> None:
    """The current diffusers form, by diffusers' own writer."""
    tensors, configs = _canonical_tensors(trained), _config_values(trained)
    StableDiffusionPipeline.save_lora_weights(
        save_directory=str(folder),
        unet_lora_layers=tensors["unet"],
        text_encoder_lora_layers=tensors.get("text_encoder"),
        weight_name=file_name,
        unet_lora_adapter_metadata=configs["unet"],
        text_encoder_lora_adapter_metadata=configs.get("text_encoder"),
    )


def save_diffusers_2023(trained: Trained, folder: Path, file_name: str) -> None:
    """The form of October 2023: lora.down / lora.up in the U-Net, lora_linear_layer in the text encoder, no alpha."""
    sides = {"lora_A": "down", "lora_B": "up"}
    infix = {"unet": "lora", "text_encoder": "lora_linear_layer"}
    named: dict[str, Tensor] = {}
    for component, tensors in _canonical_tensors(trained).items():
        for key, value in tensors.items():
            path, side = key.removesuffix(".weight").rsplit(".", 1)
            named[f"{component}.{path}.{infix[component]}.{sides[side]}.weight"] = value
    folder.mkdir(parents=True, exist_ok=True)
    save_file(named, folder / file_name, metadata={"format": "pt"})


def write_diffusers(trained: Trained, catalogue: Path, base_hash: str) -> None:
    """NAME/pytorch_lora_weights.safetensors with a model card, or NAME.safetensors with NAME.json."""
    del base_hash
    recipe = trained.recipe
    write = save_diffusers_2023 if recipe.dialect == "diffusers-2023" else save_diffusers
    if recipe.in_folder:
        with appearing(catalogue / recipe.name) as partial:
            write(trained, partial, WEIGHTS)
            (partial / "README.md").write_text(cards.model_card(recipe))
        return
    with appearing(catalogue / f"{recipe.name}.json") as partial:
        partial.write_text(json.dumps(cards.notes(recipe), indent=4) + "\n")
    write_native(trained, catalogue / recipe.path, as_in_2023=write is save_diffusers_2023)


def write_native(trained: Trained, file: Path, *, as_in_2023: bool = False) -> None:
    """One diffusers file on its own."""
    write = save_diffusers_2023 if as_in_2023 else save_diffusers
    with appearing(file) as partial:
        write(trained, partial.parent, partial.name)


def write_peft(trained: Trained, catalogue: Path, base_hash: str) -> None:
    """NAME/adapter_config.json and NAME/adapter_model.safetensors by peft's own writer, with a model card of ours."""
    del base_hash
    recipe = trained.recipe
    config = trained.unet.peft_config["default"]
    config.base_model_name_or_path = f"{OWNER}/{cards.BASE}"
    config.inference_mode = True
    config.target_modules = sorted(config.target_modules)
    dtype: torch.dtype = getattr(torch, recipe.dtype)
    with appearing(catalogue / recipe.name) as partial:
        trained.unet.to(dtype).save_pretrained(str(partial), save_embedding_layers=False)
        (partial / "README.md").write_text(cards.model_card(recipe))


WRITERS = {
    "kohya": write_kohya,
    "diffusers": write_diffusers,
    "diffusers-2023": write_diffusers,
    "peft": write_peft,
}
