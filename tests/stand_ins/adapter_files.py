"""Makes small adapters and base models without any model class: inventories, random factors, raw safetensors bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lorax.adapter import Adapter, BaseVerdict, LowRank, Site, Update
from lorax.base_model import BaseModel
from lorax.base_models.stable_diffusion import NAME
from lorax.inventories.text_encoders import clip_text
from lorax.inventories.unet import UNet
from lorax.inventory import Parameter, take_inventory
from lorax.weight_file import write_weight_file

SMALL_UNET = UNet(channels=1, widths=(8, 16), depths=(1, 1), middle_depth=1, layers=1, context=12)
ENDS = ("conv_in", "conv_out", "time_embedding")


def small_base(
    name: str = "small-v1",
    *,
    unet: UNet = SMALL_UNET,
    labels: Sequence[str] = (),
    file_hashes: Sequence[str] = (),
    fingerprint: str = "at hand",
) -> BaseModel:
    """Returns a Stable-Diffusion-shaped base with widths of 8 and 16 and one text encoder layer, without weights."""
    found = take_inventory({"unet": unet.parameters(), "text_encoder": clip_text(1, 12, vocab=20, positions=7)})
    return BaseModel(
        name=name,
        family=NAME,
        version="custom",
        sites=found.sites,
        labels=tuple(labels),
        file_hashes=tuple(file_hashes),
        fingerprint=fingerprint,
        tables=found.tables,
        vectors=found.vectors,
        parameters=found.parameters,
    )


def random_adapter(
    base: BaseModel,
    *,
    dialect: str = "kohya",
    ranks: Sequence[int] = (2, 4),
    scales: Sequence[float] = (0.5, 1.0, 0.3),
    match: str = "",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Adapter:
    """Returns an adapter on every inner site whose name holds `match`; ranks and scales take turns."""
    generator = torch.Generator().manual_seed(seed)
    updates: dict[Site, LowRank] = {}
    inner = [site for site in sorted(base.sites) if match in str(site) and not site.path.startswith(ENDS)]
    for index, site in enumerate(inner):
        shape, rank = base.sites[site], ranks[index % len(ranks)]
        up = torch.randn(shape.out_features, rank, generator=generator).to(dtype).float()
        down = torch.randn(rank, shape.columns, generator=generator).to(dtype).float()
        updates[site] = LowRank(up, down, scales[index % len(scales)], shape.kernel)
    verdict = BaseVerdict(base.name, base.family, base.version)
    return Adapter(updates, dialect, ("lora",), dtype, {}, (), verdict, f"{seed:064x}")


def kohya_tensors(adapter: Adapter) -> dict[str, Tensor]:
    """Returns the tensors of an adapter in kohya's spelling, written without the library's own writer."""
    prefixes = {"unet": "lora_unet_", "text_encoder": "lora_te_"}
    found: dict[str, Tensor] = {}
    for site, update in adapter.low_rank().items():
        module = prefixes[site.component] + site.path.replace(".", "_")
        down, up = update.down, update.up
        if update.kernel is not None:
            down, up = down.reshape(update.rank, -1, *update.kernel), up[:, :, None, None]
        found[f"{module}.lora_down.weight"] = down.to(adapter.dtype)
        found[f"{module}.lora_up.weight"] = up.to(adapter.dtype)
        found[f"{module}.alpha"] = torch.tensor(update.scale * update.rank, dtype=torch.float32)
    return found


def write_kohya(path: Path, adapter: Adapter, metadata: Mapping[str, str] | None = None) -> Path:
    """Writes an adapter as a kohya file and returns its path."""
    write_weight_file(path, kohya_tensors(adapter), metadata=metadata or {})
    return path


def write_base_folder(folder: Path, *, seed: int = 0, text_model: bool = True, unet: UNet = SMALL_UNET) -> Path:
    """Writes a base in diffusers' layout with random weights, biases and lookup tables, and returns its folder."""
    generator = torch.Generator().manual_seed(seed)
    level = "text_model."
    parts: dict[str, dict[str, Tensor]] = {"unet": {}, "text_encoder": {}}
    inventories = {"unet": unet.parameters(), "text_encoder": clip_text(1, 12, vocab=20, positions=7)}
    for component, parameters in inventories.items():
        for parameter in parameters:
            path = parameter.path if text_model else parameter.path.removeprefix(level)
            parts[component][path] = _start(parameter, generator).half()
    names = {"unet": "diffusion_pytorch_model.safetensors", "text_encoder": "model.safetensors"}
    for component, tensors in parts.items():
        (folder / component).mkdir(parents=True)
        write_weight_file(folder / component / names[component], tensors)
    (folder / "unet" / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel"}))
    return folder


def _start(parameter: Parameter, generator: torch.Generator) -> Tensor:
    """Random weights, lookup tables and norms of ones, biases of zeros."""
    if len(parameter.shape) > 1 and not parameter.is_table:
        return torch.randn(parameter.shape, generator=generator)
    return torch.zeros(parameter.shape) if parameter.path.endswith(".bias") else torch.ones(parameter.shape)


def raw_safetensors(header: object, body: bytes = b"", *, claimed_bytes: int | None = None) -> bytes:
    """Returns safetensors bytes around any header: an object is spelled as JSON, bytes are taken as they are."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if claimed_bytes is None else claimed_bytes).to_bytes(8, "little") + text + body


def same_updates(left: Mapping[Site, Update], right: Mapping[Site, Update], *, tolerance: float = 0.0) -> bool:
    """Tells whether two adapters have the same sites, factors, scales and kernels."""
    if left.keys() != right.keys():
        return False
    for site, update in left.items():
        other = right[site]
        close = torch.allclose(update.dense(), other.dense(), rtol=tolerance, atol=tolerance)
        ranks = {each.rank for each in (update, other) if isinstance(each, LowRank)}
        if update.kernel != other.kernel or type(update) is not type(other) or len(ranks) > 1 or not close:
            return False
    return True
