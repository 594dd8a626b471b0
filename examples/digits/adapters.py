"""Training one adapter with peft, and measuring what it changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from torch import Tensor, nn

from examples.digits import diffusion, styles
from examples.digits.bases import BATCH, EMPTY_SHARE, cosine, draw_captions
from examples.digits.models import Base
from examples.digits.recipes import STEPS, Recipe

PEAK = 8e-3
TEXT_PEAK = 2e-3

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
FEED_FORWARD = ["ff.net.0.proj", "ff.net.2"]
PROJECTIONS = ["proj_in", "proj_out"]
"""The 1x1 convolutions around each transformer stack; sd-scripts trains them, the diffusers examples do not."""
CONVOLUTIONS = ["conv1", "conv2"]
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj"]
TEXT_FEED_FORWARD = ["mlp.fc1", "mlp.fc2"]


@dataclass
class Trained:
    """A base with the adapter injected: peft models whose own parameters are the only ones trained."""

    base: Base
    unet: Any
    text_encoder: Any
    recipe: Recipe

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Per component, the LoRA tensors by module path: `down_blocks.1...to_q.lora_A.weight` (rank, in) and so on."""
        parts = {"unet": self.unet, "text_encoder": self.text_encoder}
        return {name: _stripped(part) for name, part in parts.items() if part is not None}


def _stripped(part: nn.Module) -> dict[str, Tensor]:
    found: dict[str, Tensor] = get_peft_model_state_dict(part)
    return {key.removeprefix("base_model.model."): value.detach().clone() for key, value in found.items()}


def unet_modules(recipe: Recipe) -> list[str]:
    """Name endings of the U-Net modules that a recipe trains."""
    if recipe.dialect == "diffusers-2023":
        return list(ATTENTION)
    modules = [*ATTENTION, *FEED_FORWARD]
    modules += PROJECTIONS if recipe.dialect == "kohya" else []
    return modules + (CONVOLUTIONS if recipe.conv else [])


def text_modules(recipe: Recipe) -> list[str]:
    """Name endings of the text encoder modules that a recipe trains."""
    return [*TEXT, *TEXT_FEED_FORWARD] if recipe.dialect == "kohya" else list(TEXT)


def _config(recipe: Recipe, modules: list[str]) -> LoraConfig:
    return LoraConfig(
        r=recipe.rank,
        lora_alpha=int(recipe.alpha),
        target_modules=modules,
        rank_pattern=dict(recipe.rank_pattern),
        alpha_pattern=dict(recipe.alpha_pattern),
        use_rslora=recipe.rank_stabilised,
        init_lora_weights=True,
    )


def inject(base: Base, recipe: Recipe, like: Recipe | None = None) -> Trained:
    """Put untrained LoRA layers into a copy of a base; modules are those of `like`, where the native copies it."""
    torch.manual_seed(1000 + recipe.seed)
    copy = base.copy()
    shape = like or recipe
    unet = get_peft_model(copy.unet, _config(recipe, unet_modules(shape)))
    text_encoder = (
        get_peft_model(copy.text_encoder, _config(recipe, text_modules(shape))) if recipe.text_encoder else None
    )
    return Trained(Base(unet, text_encoder or copy.text_encoder, copy.tokenizer), unet, text_encoder, recipe)


def _groups(trained: Trained) -> list[dict[str, Any]]:
    """Parameters with their learning rates; a small scale is made up for, so that all adapters move alike."""
    recipe = trained.recipe
    scale = recipe.alpha / recipe.rank**0.5 if recipe.rank_stabilised else recipe.alpha / recipe.rank
    peak = PEAK / scale**0.5
    weights = [weight for weight in trained.unet.parameters() if weight.requires_grad]
    groups = [{"params": weights, "lr": peak}]
    if trained.text_encoder is not None:
        text = [weight for weight in trained.text_encoder.parameters() if weight.requires_grad]
        groups.append({"params": text, "lr": peak * TEXT_PEAK / PEAK})
    return groups


def train_adapter(base: Base, recipe: Recipe, like: Recipe | None = None, steps: int = STEPS) -> Trained:
    """Train an adapter for its style with AdamW; the same seed gives the same adapter."""
    trained = inject(base, recipe, like)
    images, labels = styles.images(recipe.style, "train")
    templates, shares = styles.templates(recipe.style), diffusion.signal_shares()
    generator = torch.Generator().manual_seed(100 + recipe.seed)
    groups = _groups(trained)
    weights = [weight for group in groups for weight in group["params"]]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: cosine(step, steps, warm_up=10))
    for _ in range(steps):
        picks = torch.randint(len(images), (BATCH,), generator=generator)
        captions = draw_captions(templates, labels[picks], generator, EMPTY_SHARE)
        value = diffusion.loss(trained.base, images[picks], base.tokens(captions), shares, generator)
        optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call,unused-ignore]
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        schedule.step()
    return trained
