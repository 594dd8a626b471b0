"""Training of the four bases: v1, its later checkpoint v2, its distilled slim form, and an unrelated other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.digits import diffusion, styles
from examples.digits.models import SLIM_CHANGES, Base, make_base, open_base, save_base

BATCH = 32
STEPS = {"digits-v1": 2400, "digits-other": 2400, "digits-v2": 700, "digits-slim": 800}
EMPTY_SHARE = 0.1
"""Share of captions dropped, so that the base also learns to paint unguided."""
RARE_LATER = (1, 4)
"""Digits that digits-v2 saw less of: half of their images were left out."""

Batches = Iterator[tuple[Tensor, list[str]]]


class Average:
    """Exponential moving average of a base's weights: what is kept, far less noisy than the last step."""

    def __init__(self, base: Base, decay: float) -> None:
        self.base = base.copy()
        self.decay = decay

    @torch.no_grad()
    def follow(self, base: Base, step: int) -> None:
        """Move towards the weights as they are now; young averages move faster."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, part in base.parts().items():
            own = dict(self.base.parts()[name].named_parameters())
            for key, value in part.named_parameters():
                own[key].lerp_(value.detach(), weight)


def cosine(step: int, steps: int, warm_up: int = 50, floor: float = 0.05) -> float:
    """Learning rate factor: a short rise, then half a cosine down to the floor."""
    if step < warm_up:
        return (step + 1) / warm_up
    share = (step - warm_up) / max(1, steps - warm_up)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share))


def draw_captions(templates: tuple[str, ...], labels: Tensor, generator: torch.Generator, empty: float) -> list[str]:
    """A random caption per label, some of them empty."""
    picks = torch.randint(len(templates), (len(labels),), generator=generator).tolist()
    drops = (torch.rand(len(labels), generator=generator) < empty).tolist()
    rows = zip(picks, labels.tolist(), drops, strict=True)
    return ["" if drop else styles.caption(templates[pick], label) for pick, label, drop in rows]


def plain_batches(generator: torch.Generator) -> Batches:
    """Endless batches of plain digits (32, 1, 16, 16) with captions."""
    images, labels = styles.images(None, "train")
    while True:
        picks = torch.randint(len(images), (BATCH,), generator=generator)
        yield images[picks], draw_captions(styles.TEMPLATES, labels[picks], generator, EMPTY_SHARE)


def later_batches(generator: torch.Generator) -> Batches:
    """Endless batches of the mix that digits-v2 went on with."""
    ink, labels = styles.ink_and_labels("train")
    rare = torch.isin(labels, torch.tensor(RARE_LATER))
    weights = torch.where(rare, 0.5, 1.0)
    while True:
        picks = torch.multinomial(weights, BATCH, replacement=True, generator=generator)
        images = styles.vary(ink[picks], generator)[:, None] * 2 - 1
        yield images, draw_captions(styles.LATER_TEMPLATES, labels[picks], generator, EMPTY_SHARE)


def optimise(
    base: Base, step_loss: Callable[[], Tensor], steps: int, peak: float, modules: list[nn.Module], name: str
) -> Base:
    """AdamW on the modules for some steps. Returns the averaged base."""
    weights = [weight for module in modules for weight in module.requires_grad_(requires_grad=True).parameters()]
    optimiser = torch.optim.AdamW(weights, lr=peak, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: cosine(step, steps))
    average = Average(base, decay=0.995)
    recent = 0.0
    for step in range(steps):
        value = step_loss()
        optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call,unused-ignore]
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        schedule.step()
        average.follow(base, step)
        recent = 0.98 * recent + 0.02 * value.item() if step else value.item()
        if step % 200 == 199:
            print(f"{name}: step {step + 1} of {steps}, loss {recent:.4f}", flush=True)
    return average.base


def train_on(base: Base, batches: Batches, generator: torch.Generator, steps: int, peak: float, name: str) -> Base:
    """Noise-prediction training of U-Net and text encoder together."""
    shares = diffusion.signal_shares()

    def step_loss() -> Tensor:
        images, captions = next(batches)
        return diffusion.loss(base, images, base.tokens(captions), shares, generator)

    return optimise(base, step_loss, steps, peak, [base.unet, base.text_encoder], name)


def train_v1(_folder: Path) -> Base:
    """The base that the catalogue's adapters were made for."""
    generator = torch.Generator().manual_seed(1)
    return train_on(make_base(seed=1), plain_batches(generator), generator, STEPS["digits-v1"], 2e-3, "digits-v1")


def train_other(_folder: Path) -> Base:
    """The same shapes and tokenizer, nothing else in common with v1."""
    generator = torch.Generator().manual_seed(4)
    return train_on(make_base(seed=4), plain_batches(generator), generator, STEPS["digits-other"], 2e-3, "digits-other")


def train_v2(folder: Path) -> Base:
    """v1 gone on with, on another mix: same lineage, moved weights."""
    generator = torch.Generator().manual_seed(2)
    base = open_base(folder / "digits-v1")
    return train_on(base, later_batches(generator), generator, STEPS["digits-v2"], 1e-3, "digits-v2")


def slim_start(source: Base) -> Base:
    """v1 with blocks removed. Each module left keeps its name and starts as the v1 module of that name."""
    slim = make_base(seed=3, **SLIM_CHANGES)
    kept = {name: value for name, value in source.unet.state_dict().items() if name in slim.unet.state_dict()}
    slim.unet.load_state_dict(kept)
    return Base(slim.unet, source.copy().text_encoder, source.tokenizer)


def _features(base: Base, noisy: Tensor, timesteps: Tensor, context: Tensor) -> list[Tensor]:
    """Outputs of each down and up block, then the prediction. Shapes are those of the blocks."""
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    blocks = [*base.unet.down_blocks, *base.unet.up_blocks]
    hooks = [block.register_forward_hook(keep) for block in blocks]
    prediction = base.unet(noisy, timesteps, context).sample
    for hook in hooks:
        hook.remove()
    return [*seen, prediction]


def distil_loss(
    teacher: Base, student: Base, images: Tensor, tokens: Tensor, shares: Tensor, generator: torch.Generator
) -> Tensor:
    """Noise error plus distance to the teacher's prediction and, in relative terms, to its block outputs."""
    noise = torch.randn(images.shape, generator=generator)
    timesteps = torch.randint(len(shares), (len(images),), generator=generator)
    noisy = diffusion.add_noise(images, noise, timesteps, shares)
    with torch.no_grad():
        context = teacher.text_encoder(tokens).last_hidden_state
        wanted = _features(teacher, noisy, timesteps, context)
    got = _features(student, noisy, timesteps, context)
    apart = [
        F.mse_loss(mine, theirs) / theirs.pow(2).mean() for mine, theirs in zip(got[:-1], wanted[:-1], strict=True)
    ]
    return F.mse_loss(got[-1], noise) + F.mse_loss(got[-1], wanted[-1]) + 0.1 * torch.stack(apart).mean()


def train_slim(folder: Path) -> Base:
    """v1 with blocks removed, distilled from v1; the text encoder stays v1's own."""
    teacher = open_base(folder / "digits-v1")
    student = slim_start(teacher)
    generator = torch.Generator().manual_seed(3)
    batches, shares = plain_batches(generator), diffusion.signal_shares()

    def step_loss() -> Tensor:
        images, captions = next(batches)
        return distil_loss(teacher, student, images, teacher.tokens(captions), shares, generator)

    return optimise(student, step_loss, STEPS["digits-slim"], 1e-3, [student.unet], "digits-slim")


TRAINERS: dict[str, Callable[[Path], Base]] = {
    "digits-v1": train_v1,
    "digits-v2": train_v2,
    "digits-slim": train_slim,
    "digits-other": train_other,
}
NEEDS: dict[str, list[str]] = {
    "digits-v1": [],
    "digits-other": [],
    "digits-v2": ["digits-v1"],
    "digits-slim": ["digits-v1"],
}


def train_base(name: str, folder: Path) -> dict[str, float]:
    """Train one base into FOLDER/NAME. Returns its held-out loss."""
    base = TRAINERS[name](folder)
    save_base(base, folder / name)
    value = diffusion.held_out_loss(open_base(folder / name), None)
    print(f"{name}: held-out loss {value:.4f}", flush=True)
    return {"held_out_loss": round(value, 5)}
