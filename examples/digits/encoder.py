"""Make the encoder of this example: a tiny CLIP that tells digits and styles apart, trained on pictures and captions.

    python examples/digits/encoder.py [--out FOLDER]

It is what DINOv2 and CLIP are to photographs: it sees what two pictures have in common, and how well one fits its
words. CPU only, one thread, seeds fixed, minutes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))  # so that `examples.digits` is found when this file is run as a script

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer  # noqa: E402

from examples.digits import styles  # noqa: E402
from examples.digits.bases import cosine  # noqa: E402
from examples.digits.models import OWNER, TEXT_WIDTH, TOKENS, make_tokenizer  # noqa: E402

BATCH = 128
STEPS = 2400
PEAK = 2e-3
KINDS: tuple[str | None, ...] = (None, *styles.NAMES)
"""What a picture can be: plain, or in one of the styles."""
MEAN, SPREAD = 0.5, 0.5
"""What pixels between 0 and 1 are normalised with."""


def make_model(tokenizer: CLIPTokenizer) -> CLIPModel:
    """A fresh CLIP for one channel of 16x16 pixels and captions of 16 tokens."""
    torch.manual_seed(11)
    vision = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": styles.SIZE,
        "patch_size": 4,
        "num_channels": 1,
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 2 * TEXT_WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": TOKENS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = CLIPConfig(vision_config=vision, text_config=text, projection_dim=64)
    return CLIPModel(config)


def all_images(split: styles.Split) -> tuple[Tensor, Tensor]:
    """Every image of a split in every style (kinds, n, 1, 16, 16) in [-1, 1], and labels (n,)."""
    drawn = [styles.images(kind, split) for kind in KINDS]
    return torch.stack([images for images, _ in drawn]), drawn[0][1]


def disturb(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images a pixel aside, with other contrast and some noise: what models paint is never as clean as a transform."""
    count = len(images)
    down, right = torch.randint(-1, 2, (2,), generator=generator).tolist()
    moved = torch.roll(images, (down, right), dims=(-2, -1))
    contrast = 0.9 + 0.2 * torch.rand(count, 1, 1, 1, generator=generator)
    strength = 0.25 * torch.rand(count, 1, 1, 1, generator=generator)
    return (moved * contrast + strength * torch.randn(images.shape, generator=generator)).clamp(-1, 1)


class Captions:
    """Every caption that can be drawn, tokenised once."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        texts = [
            styles.caption(template, label)
            for kind in KINDS
            for label in range(10)
            for template in styles.templates(kind)
        ]
        found = tokenizer(texts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
        parts = len(styles.TEMPLATES)
        self.tokens: Tensor = found["input_ids"].view(len(KINDS), 10, parts, TOKENS)
        self.mask: Tensor = found["attention_mask"].view(len(KINDS), 10, parts, TOKENS)

    def of(self, kinds: Tensor, labels: Tensor, templates: Tensor) -> dict[str, Tensor]:
        """Token ids and masks (n, 16) of captions."""
        return {
            "input_ids": self.tokens[kinds, labels, templates],
            "attention_mask": self.mask[kinds, labels, templates],
        }


def contrast(model: CLIPModel, pixels: Tensor, captions: dict[str, Tensor], classes: Tensor) -> Tensor:
    """Loss of telling which caption belongs to which picture, both ways; captions of one class are equally right."""
    found = model(pixel_values=pixels, **captions)
    right = (classes[:, None] == classes).float()
    right = right / right.sum(1, keepdim=True)
    return (F.cross_entropy(found.logits_per_image, right) + F.cross_entropy(found.logits_per_text, right)) / 2


def train(steps: int = STEPS) -> tuple[CLIPModel, CLIPTokenizer]:
    """Train on the images that are not held out, in every style; the same seed gives the same encoder."""
    tokenizer = make_tokenizer()
    model, captions = make_model(tokenizer), Captions(tokenizer)
    images, labels = all_images("train")
    generator = torch.Generator().manual_seed(12)
    weights = list(model.parameters())
    optimiser = torch.optim.AdamW(weights, lr=PEAK, weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: cosine(step, steps, floor=0.0))
    for step in range(steps):
        picks = torch.randint(len(labels), (BATCH,), generator=generator)
        kinds = torch.randint(len(KINDS), (BATCH,), generator=generator)
        templates = torch.randint(len(styles.TEMPLATES), (BATCH,), generator=generator)
        pixels = disturb(images[kinds, picks], generator)
        value = contrast(model, pixels, captions.of(kinds, labels[picks], templates), kinds * 10 + labels[picks])
        optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call,unused-ignore]
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        schedule.step()
        if step % 200 == 199:
            print(f"encoder: step {step + 1} of {steps}, loss {value.item():.4f}", flush=True)
    return model.eval(), tokenizer


@torch.no_grad()
def accuracy(model: CLIPModel, tokenizer: CLIPTokenizer) -> dict[str, float]:
    """Shares of held-out pictures whose nearest caption of all 210 names the right style and digit, style, or digit."""
    images, labels = all_images("test")
    captions = Captions(tokenizer)
    kinds, digits = (
        part.flatten() for part in torch.meshgrid(torch.arange(len(KINDS)), torch.arange(10), indexing="ij")
    )
    words = model.get_text_features(**captions.of(kinds, digits, torch.zeros_like(kinds))).pooler_output
    seen = model.get_image_features(pixel_values=images.flatten(0, 1)).pooler_output
    nearest = (F.normalize(seen) @ F.normalize(words).T).argmax(1).view(len(KINDS), len(labels))
    style = nearest // 10 == torch.arange(len(KINDS))[:, None]
    digit = nearest % 10 == labels
    return {
        "both": (style & digit).float().mean().item(),
        "style": style.float().mean().item(),
        "digit": digit.float().mean().item(),
    }


def save(model: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write a float16 transformers folder; it appears whole or not at all."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.name_or_path = f"{OWNER}/digits-encoder"
    model.half().save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    settings: dict[str, Any] = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": False,
        "do_resize": True,
        "size": {"shortest_edge": styles.SIZE},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": styles.SIZE, "width": styles.SIZE},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [MEAN],
        "image_std": [SPREAD],
    }
    (partial / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


def main() -> None:
    """Read the command line, train, and say how well it tells held-out pictures."""
    parser = argparse.ArgumentParser(description="Make the encoder of the digits example again.")
    parser.add_argument("--out", type=Path, default=HERE / "encoder", help="folder to write (default: encoder/)")
    out = parser.parse_args().out.resolve()
    torch.set_num_threads(1)
    started = time.perf_counter()
    model, tokenizer = train()
    save(model, tokenizer, out)
    model.float()  # as rounded to float16
    found = ", ".join(f"{name} {share:.3f}" for name, share in accuracy(model, tokenizer).items())
    print(f"held-out pictures, nearest of 210 captions: {found}; {(time.perf_counter() - started) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
