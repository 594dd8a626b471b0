"""How families write down the base models that they know by heart, and how they recognise a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, reduce
from operator import or_
from pathlib import Path

from lorax.base_model import BaseModel
from lorax.inventories.text_encoders import t5_encoder
from lorax.inventory import Inventory, Parameter, take_inventory

_CONFIG_BYTES = 2**20


def known_base(
    name: str,
    *,
    family: str,
    labels: tuple[str, ...],
    components: Mapping[str, Iterable[Parameter]],
    shared: Sequence[Inventory] = (),
) -> BaseModel:
    """Gives a base model that is known by its inventory alone; its version is its name.

    shared: inventories of further components, made once for several bases.
    """
    parts = (take_inventory(components), *shared)
    return BaseModel(
        name,
        family,
        version=name,
        # Joining dicts keeps the hashes of their keys, which are most of the work of making one.
        sites=reduce(or_, (part.sites for part in parts)),
        labels=labels,
        tables=reduce(or_, (part.tables for part in parts)),
        vectors=reduce(or_, (part.vectors for part in parts)),
        parameters=sum(part.parameters for part in parts),
    )


@cache
def t5_xxl(component: str) -> Inventory:
    """Gives the encoder of T5 1.1 XXL as a component: the largest text encoder of Flux.1 and Stable Diffusion 3."""
    return take_inventory({component: t5_encoder(24, 4096, 4096, 10240)})


def read_config(path: Path) -> Mapping[str, object]:
    """Reads a configuration of at most 1 MiB; gives an empty one where there is none or it is no JSON object."""
    try:
        if path.stat().st_size > _CONFIG_BYTES:
            return {}
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def holds_class(component: str, *class_names: str) -> Callable[[Path], bool]:
    """Gives the test whether a folder's component says that it is of one of these classes of diffusers."""
    return lambda folder: read_config(folder / component / "config.json").get("_class_name") in class_names


def holds_model_type(*model_types: str) -> Callable[[Path], bool]:
    """Gives the test whether a folder of transformers says that its model is of one of these types."""
    return lambda folder: read_config(folder / "config.json").get("model_type") in model_types


def present(*components: str) -> Callable[[Path], dict[str, Path]]:
    """Gives the function that finds which of these components a pipeline's folder has."""
    return lambda folder: {name: folder / name for name in components if (folder / name).is_dir()}


def whole_folder(folder: Path) -> dict[str, Path]:
    """Gives the one component of a model of transformers: the folder itself."""
    return {"model": folder}


def as_it_is(_component: str, module: str) -> str:
    """Gives a module's name unchanged, for checkpoints that use the canonical names."""
    return module


def quantised_too(*labels: str) -> tuple[str, ...]:
    """Gives the labels and what 4-bit copies of the models are called (unsloth's mirrors on the Hub)."""
    endings = ("", "-bnb-4bit", "-unsloth-bnb-4bit")
    return tuple(f"{label}{ending}" for label in labels for ending in endings)
