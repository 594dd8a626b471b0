"""Makes small adapters and base models without any model class: inventories, random factors, raw safetensors bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lorax.adapter import Adapter, BaseVerdict, LowRank, Site
from lorax.base_model import BaseModel
from lorax.base_models.stable_diffusion import NAME, UNet, clip_modules
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
    sites = {Site("unet", path): shape for path, shape in unet.modules()}
    sites |= {Site("text_encoder", path): shape for path, shape in clip_modules(1, 12)}
    return BaseModel(name, NAME, "custom", sites, tuple(labels), tuple(file_hashes), fingerprint)


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
    for site, update in adapter.updates.items():
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
    base = small_base(unet=unet)
    parts: dict[str, dict[str, Tensor]] = {"unet": {}, "text_encoder": {}}
    for site, shape in base.sites.items():
        path = site.path if text_model else site.path.removeprefix("text_model.")
        parts[site.component][f"{path}.weight"] = torch.randn(shape.weight_shape, generator=generator).half()
        parts[site.component][f"{path}.bias"] = torch.zeros(shape.out_features).half()
    level = "text_model." if text_model else ""
    parts["text_encoder"][f"{level}embeddings.token_embedding.weight"] = torch.ones(20, 12).half()
    parts["text_encoder"][f"{level}embeddings.position_embedding.weight"] = torch.ones(7, 12).half()
    parts["text_encoder"][f"{level}final_layer_norm.weight"] = torch.ones(12).half()
    names = {"unet": "diffusion_pytorch_model.safetensors", "text_encoder": "model.safetensors"}
    for component, tensors in parts.items():
        (folder / component).mkdir(parents=True)
        write_weight_file(folder / component / names[component], tensors)
    (folder / "unet" / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel"}))
    return folder


def raw_safetensors(header: object, body: bytes = b"", *, claimed_bytes: int | None = None) -> bytes:
    """Returns safetensors bytes around any header: an object is spelled as JSON, bytes are taken as they are."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if claimed_bytes is None else claimed_bytes).to_bytes(8, "little") + text + body


def same_updates(left: Mapping[Site, LowRank], right: Mapping[Site, LowRank], *, tolerance: float = 0.0) -> bool:
    """Tells whether two adapters have the same sites, factors, scales and kernels."""
    if left.keys() != right.keys():
        return False
    for site, update in left.items():
        other = right[site]
        close = torch.allclose(update.dense(), other.dense(), rtol=tolerance, atol=tolerance)
        if update.kernel != other.kernel or update.rank != other.rank or not close:
            return False
    return True
