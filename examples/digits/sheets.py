"""Sheets to look at: what each base paints, and what each adapter changes.

Adapters are read back from their files by a small reader of its own, so a sheet also proves that the files say what was
trained.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from safetensors import safe_open
from torch import Tensor, nn

from examples.digits import diffusion, styles
from examples.digits.models import Base, open_base
from examples.digits.recipes import CATALOGUE, SOURCE, Recipe
from examples.digits.writers import appearing

ZOOM = 2
LABEL_WIDTH = 120
BASES = ("digits-v1", "digits-v2", "digits-slim", "digits-other")


@dataclass
class Update:
    """What an adapter adds to one module: scale * up @ down, shapes (out, rank, ...) and (rank, in, ...)."""

    component: str
    path: str
    down: Tensor
    up: Tensor
    scale: float

    def change(self) -> Tensor:
        """The change of the weight, in its own shape."""
        product = self.up.float().flatten(1) @ self.down.float().flatten(1)
        return self.scale * product.view(len(self.up), *self.down.shape[1:])


def _tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(file, "pt") as opened:
        return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata() or {}  # noqa: SIM118


def _kohya(file: Path, base: Base) -> Iterator[Update]:
    tensors, _ = _tensors(file)
    for component, prefix in (("unet", "lora_unet_"), ("text_encoder", "lora_te_text_model_")):
        for path, _module in base.parts()[component].named_modules():
            name = prefix + path.replace(".", "_")
            if f"{name}.alpha" in tensors:
                down, up = tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"]
                yield Update(component, path, down, up, tensors[f"{name}.alpha"].item() / len(down))


def _diffusers(file: Path, _base: Base) -> Iterator[Update]:
    tensors, metadata = _tensors(file)
    config = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    ends = ((".lora_A.weight", ".lora_B.weight"), (".lora.down.weight", ".lora.up.weight"))
    linear_layer = (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight")
    for down_end, up_end in (*ends, linear_layer):
        for key in [key for key in tensors if key.endswith(down_end)]:
            component, path = key.removesuffix(down_end).split(".", 1)
            scale = config.get(f"{component}.lora_alpha", 1) / config.get(f"{component}.r", 1)
            up = tensors[key.removesuffix(down_end) + up_end]
            yield Update(component, path.removeprefix("text_model."), tensors[key], up, scale)


def _peft(file: Path, _base: Base) -> Iterator[Update]:
    tensors, _ = _tensors(file)
    config = json.loads((file.parent / "adapter_config.json").read_text())
    for key in [key for key in tensors if key.endswith(".lora_A.weight")]:
        path = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        down, up = tensors[key], tensors[key.replace("lora_A", "lora_B")]
        alphas = [value for name, value in config["alpha_pattern"].items() if path.endswith(f".{name}")]
        alpha = (alphas or [config["lora_alpha"]])[0]
        yield Update("unet", path, down, up, alpha / (len(down) ** 0.5 if config["use_rslora"] else len(down)))


READERS: dict[str, Callable[[Path, Base], Iterator[Update]]] = {
    "kohya": _kohya,
    "diffusers": _diffusers,
    "diffusers-2023": _diffusers,
    "peft": _peft,
}


@torch.no_grad()
def patched(base: Base, file: Path, dialect: str) -> Base:
    """A copy of a base with an adapter file merged into its weights."""
    copy = base.copy()
    modules = {name: dict(part.named_modules()) for name, part in copy.parts().items()}
    for update in READERS[dialect](file, base):
        weight = modules[update.component][update.path].weight
        if not isinstance(weight, nn.Parameter):
            raise TypeError(f"{file}: {update.path} has no weight")
        weight.add_(update.change().view_as(weight))
    return copy


def strip(images: Tensor) -> Tensor:
    """Images (n, 1, 16, 16) side by side with a grey line around each: (18, 18 n) in [-1, 1]."""
    return torch.cat(list(F.pad(images[:, 0], (1, 1, 1, 1))), dim=1)


def _picture(rows: list[tuple[str, Tensor]]) -> Image.Image:
    """Labelled rows of pixels (18, width) as one grey picture."""
    grid = torch.cat([row for _, row in rows])
    pixels = Image.fromarray(((grid + 1) * 127.5).round().to(torch.uint8).numpy())
    pixels = pixels.resize((pixels.width * ZOOM, pixels.height * ZOOM), Image.Resampling.NEAREST)
    sheet = Image.new("L", (pixels.width + LABEL_WIDTH, pixels.height), 255)
    sheet.paste(pixels, (LABEL_WIDTH, 0))
    for number, (label, row) in enumerate(rows):
        ImageDraw.Draw(sheet).text((4, (number + 0.3) * len(row) * ZOOM), label, fill=0)
    return sheet


def _save(picture: Image.Image, file: Path) -> None:
    with appearing(file) as partial:
        picture.save(partial, format="PNG", optimize=True)


def _captions(style: str | None, count: int, template: int = 0) -> list[str]:
    """Captions of the digits 0, 1, 2, ... under one template."""
    return [styles.caption(styles.templates(style)[template], label % 10) for label in range(count)]


def draw_bases(out: Path) -> None:
    """sheets/bases.png: two rows of digits per base, all bases from the same noise."""
    rows: list[tuple[str, Tensor]] = []
    for name in BASES:
        base = open_base(out / "bases" / name)
        rows += [(name, strip(diffusion.sample(base, _captions(None, 20), seed))) for seed in (0, 1)]
    _save(_picture(rows), out / "sheets" / "bases.png")


def _true_images(style: str, count: int) -> Tensor:
    """Held-out images (n, 1, 16, 16) of a style, the digits 0, 1, 2, ... in order."""
    images, labels = styles.images(style, "test")
    first = [int((labels == label).nonzero()[0]) for label in range(count)]
    return images[first]


def adapter_row(base: Base, out: Path, recipe: Recipe, count: int = 10) -> Tensor:
    """A base without an adapter, the same with it, and true images of the style: (18, 18 * 3 n)."""
    changed = patched(base, out / "catalogue" / recipe.weights, recipe.dialect)
    captions = _captions(recipe.style, count)
    shown = [diffusion.sample(one, captions, seed=0) for one in (base, changed)]
    return strip(torch.cat([*shown, _true_images(recipe.style, count)]))


def draw_adapters(out: Path) -> None:
    """sheets/adapters.png: a row per adapter of the catalogue."""
    base = open_base(out / "bases" / SOURCE)
    rows = [(recipe.name, adapter_row(base, out, recipe)) for recipe in CATALOGUE]
    _save(_picture(rows), out / "sheets" / "adapters.png")


def draw_previews(out: Path) -> None:
    """NAME.preview.png beside some files of the catalogue, as image tools keep them."""
    base = open_base(out / "bases" / SOURCE)
    for recipe in reversed([recipe for recipe in CATALOGUE if recipe.preview]):
        changed = patched(base, out / "catalogue" / recipe.weights, recipe.dialect)
        images = strip(diffusion.sample(changed, _captions(recipe.style, 4, template=1), seed=3))
        picture = Image.fromarray(((images + 1) * 127.5).round().to(torch.uint8).numpy())
        picture = picture.resize((picture.width * 4, picture.height * 4), Image.Resampling.NEAREST)
        _save(picture, out / "catalogue" / f"{recipe.name}.preview.png")
