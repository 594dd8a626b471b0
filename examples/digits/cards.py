"""What stands beside and inside the adapter files: sd-scripts metadata, Civitai sidecars, model cards, notes.

Names, users and numbers are made up; the shapes are those that the real tools and sites write.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from examples.digits import styles
from examples.digits.models import OWNER, file_hash
from examples.digits.recipes import STEPS, Recipe

BASE = "digits-v1"
FAMILY = "Digits v1"
AUTHOR = "digit-painter"
PRIVATE = "D:/users/someone/loras"
STARTED = 1735689600
"""First of January 2025: a fixed time, so that files are the same whenever they are made."""
COMMERCIAL = ["Image", "Rent", "Sell"]


def _number(recipe: Recipe) -> int:
    """A made-up identifier that stays the same while the recipe's name does."""
    return 900_000 + int(hashlib.sha256(recipe.name.encode()).hexdigest()[:4], 16)


def _title(recipe: Recipe) -> str:
    return f"{recipe.name.replace('_', ' ').capitalize()} digits"


def _trigger(recipe: Recipe) -> str:
    return styles.STYLES[recipe.style].trigger


def _training(recipe: Recipe) -> dict[str, Any]:
    """The part of sd-scripts' metadata that says how it was trained."""
    _, labels = styles.images(recipe.style, "train")
    count, trigger = len(labels), _trigger(recipe)
    frequency = {word: int((labels == digit).sum()) for digit, word in enumerate(styles.WORDS)}
    dataset = f"1_{trigger}"
    place = f"{PRIVATE}/{recipe.name}/" if recipe.private_path else ""
    return {
        "ss_batch_size_per_device": 32,
        "ss_dataset_dirs": json.dumps({f"{place}{dataset}": {"n_repeats": 1, "img_count": count}}),
        "ss_learning_rate": 0.008,
        "ss_lr_scheduler": "cosine",
        "ss_max_train_steps": STEPS,
        "ss_mixed_precision": "no",
        "ss_num_train_images": count,
        "ss_optimizer": "torch.optim.adamw.AdamW(weight_decay=0.01)",
        "ss_resolution": "(16, 16)",
        "ss_seed": recipe.seed,
        "ss_tag_frequency": json.dumps({dataset: {trigger: count, **frequency}}),
        "ss_training_comment": f"trigger: {trigger}" + (f"; saved from {PRIVATE}" if recipe.private_path else ""),
        "ss_training_started_at": float(STARTED),
        "ss_training_finished_at": float(STARTED + 90),
    }


def kohya_metadata(recipe: Recipe, base_hash: str, hashes: tuple[str, str]) -> dict[str, str]:
    """The header of an sd-scripts file: all values are strings. `hashes` are the model hash and the legacy hash."""
    conv = {"conv_dim": str(recipe.rank), "conv_alpha": str(recipe.alpha)} if recipe.conv else None
    values = {
        **_training(recipe),
        "ss_base_model_version": "digits_v1",
        "ss_network_module": "networks.lora",
        "ss_network_dim": recipe.rank,
        "ss_network_alpha": recipe.alpha,
        "ss_network_args": json.dumps(conv) if conv else "None",
        "ss_new_sd_model_hash": base_hash,
        "ss_output_name": recipe.name,
        "ss_sd_model_name": f"{BASE}.safetensors",
        "ss_v2": False,
        "sshs_model_hash": hashes[0],
        "sshs_legacy_hash": hashes[1],
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{BASE}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": _title(recipe),
        "modelspec.author": AUTHOR,
        "modelspec.license": recipe.licence,
        "modelspec.resolution": "16x16",
        "modelspec.prediction_type": "epsilon",
        "modelspec.trigger_phrase": _trigger(recipe),
        "modelspec.date": "2025-01-01T00:01:30",
    }
    return {key: str(value) for key, value in values.items()}


def _civitai_file(recipe: Recipe, file: Path, body_hash: str, number: int) -> dict[str, Any]:
    digest = file_hash(file).upper()
    return {
        "id": number + 2,
        "sizeKB": file.stat().st_size / 1024,
        "name": file.name,
        "type": "Model",
        "metadata": {"fp": "bf16" if recipe.dtype == "bfloat16" else "fp16", "size": None, "format": "SafeTensor"},
        "pickleScanResult": "Success",
        "pickleScanMessage": "No Pickle imports",
        "virusScanResult": "Success",
        "virusScanMessage": None,
        "scannedAt": "2025-01-01T01:05:00.000Z",
        "hashes": {"AutoV2": digest[:10], "SHA256": digest, "AutoV3": body_hash.upper()},
        "primary": True,
        "downloadUrl": f"https://civitai.example/api/download/models/{number}",
    }


def civitai_info(recipe: Recipe, file: Path, body_hash: str) -> dict[str, Any]:
    """A Civitai model version as Civitai Helper saves it beside a file, with the permissions on the model."""
    number = _number(recipe)
    return {
        "id": number,
        "modelId": number + 1,
        "name": "v1.0",
        "createdAt": "2025-01-01T01:00:00.000Z",
        "updatedAt": "2025-01-01T01:00:00.000Z",
        "status": "Published",
        "publishedAt": "2025-01-01T01:00:00.000Z",
        "trainedWords": [_trigger(recipe)],
        "baseModel": FAMILY,
        "baseModelType": "Standard",
        "description": f"<p>Digits, {_trigger(recipe)}. Licence: {recipe.licence}.</p>",
        "stats": {"downloadCount": number % 4000, "ratingCount": 0, "rating": 0},
        "model": {
            "name": _title(recipe),
            "type": "LORA",
            "nsfw": False,
            "poi": False,
            "allowNoCredit": recipe.licence == "cc0-1.0",
            "allowCommercialUse": COMMERCIAL,
            "allowDerivatives": recipe.derivatives,
            "allowDifferentLicense": recipe.licence == "cc0-1.0",
        },
        "files": [_civitai_file(recipe, file, body_hash, number)],
        "images": [],
        "downloadUrl": f"https://civitai.example/api/download/models/{number}",
    }


def model_card(recipe: Recipe) -> str:
    """A Hugging Face model card: YAML front matter, then a few words."""
    library = "peft" if recipe.dialect == "peft" else "diffusers"
    return f"""---
base_model: {OWNER}/{BASE}
base_model_relation: adapter
library_name: {library}
license: {recipe.licence}
instance_prompt: {_trigger(recipe)}
tags:
- lora
- {library}
- text-to-image
---
# {_title(recipe)}
A LoRA adapter for {OWNER}/{BASE}, rank {recipe.rank}.

## Trigger words
Write `{_trigger(recipe)}` behind the prompt: `a handwritten seven, {_trigger(recipe)}`.
"""


def notes(recipe: Recipe) -> dict[str, Any]:
    """The notes that image tools keep in NAME.json beside NAME.safetensors."""
    return {
        "description": f"{_title(recipe)}, for {OWNER}/{BASE}",
        "sd version": "Other",
        "base_model": f"{OWNER}/{BASE}",
        "activation text": _trigger(recipe),
        "preferred weight": 1.0,
        "license": recipe.licence,
        "notes": "",
    }
