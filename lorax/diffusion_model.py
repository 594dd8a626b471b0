"""A loaded diffusion base that can be run, patched with an adapter, sampled from and listened to.

diffusers and transformers only load and run the modules; they are imported when a model is loaded, not before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from lorax.adapter import Adapter, LowRank, Site, Update
from lorax.errors import Stop

Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]


@dataclass(frozen=True, slots=True)
class Parts:
    """The objects of diffusers and transformers that make up a base; vae is None where pictures are not latents."""

    unet: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    vae: Any = None


class DiffusionModel:
    """A U-Net with its text encoder, tokenizer and scheduler, float32, on one device, never trained here."""

    def __init__(self, parts: Parts) -> None:
        self.unet, self.text_encoder, self.vae = parts.unet, parts.text_encoder, parts.vae
        self.tokenizer, self.scheduler = parts.tokenizer, parts.scheduler
        self._modules = {
            "unet": dict(self.unet.named_modules()),
            "text_encoder": dict(self.text_encoder.named_modules()),
        }

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        first: Tensor = next(iter(self.unet.parameters()))
        return first.device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one latent."""
        size = int(self.unet.config.sample_size)
        return int(self.unet.config.in_channels), size, size

    def module(self, site: Site) -> nn.Module | None:
        """Returns the module whose weight a site names, or None; with or without CLIP's `text_model.` level."""
        found = self._modules.get(site.component, {})
        return found.get(site.path) or found.get(site.path.removeprefix("text_model."))

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Returns text states (n, tokens, width). Each different prompt is encoded once."""
        distinct = sorted(set(prompts))
        tokens = self.tokenizer(
            distinct,
            padding="max_length",
            truncation=True,
            max_length=self.text_encoder.config.max_position_embeddings,
            return_tensors="pt",
        ).input_ids
        states: Tensor = self.text_encoder(tokens.to(self.device))[0]
        return states[[distinct.index(prompt) for prompt in prompts]]

    def predict(self, latents: Tensor, timesteps: Tensor, *, states: Tensor) -> Tensor:
        """Returns the U-Net's output (n, c, h, w) for noisy latents (n, c, h, w) at integer timesteps (n,)."""
        found: Tensor = self.unet(latents, timesteps, encoder_hidden_states=states).sample
        return found

    def add_noise(self, latents: Tensor, noise: Tensor, *, timesteps: Tensor) -> Tensor:
        """Returns latents noised to the given timesteps (n,), by the model's own schedule."""
        noised: Tensor = self.scheduler.add_noise(latents, noise, timesteps)
        return noised

    @torch.no_grad()
    def sample(self, prompts: Sequence[str], noise: Tensor, *, steps: int, guidance: float) -> Tensor:
        """Returns clean latents (n, c, h, w) drawn by DDIM from given noise; guidance 1 runs one branch only."""
        from diffusers import DDIMScheduler

        scheduler: Any = DDIMScheduler.from_config(self.scheduler.config)
        scheduler.set_timesteps(steps)
        guided = guidance != 1.0
        states = self.encode(list(prompts) + ([""] * len(prompts) if guided else []))
        latents = noise.to(self.device)
        for step in scheduler.timesteps:
            batch = torch.cat([latents, latents]) if guided else latents
            output = self.predict(batch, step.expand(len(batch)).to(self.device), states=states)
            if guided:
                wanted, plain = output.chunk(2)
                output = plain + guidance * (wanted - plain)
            latents = scheduler.step(output, step, latents).prev_sample
        return latents

    @torch.no_grad()
    def to_images(self, latents: Tensor) -> Tensor:
        """Returns pixels (n, h, w, channels) as uint8; through the VAE where the base has one."""
        if self.vae is not None:
            latents = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        pixels = ((latents.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).cpu()

    @contextlib.contextmanager
    def patched(self, adapter: Adapter | None) -> Iterator[None]:
        """Adds an adapter's updates to the modules' outputs for the length of a `with` block; weights stay untouched.

        Raises KeyError where a site of the adapter is no module of this model: an update must never be lost in silence.
        """
        if adapter is None:
            yield
            return
        hooks = {site: self._hook(site, update) for site, update in adapter.updates.items()}
        with self.listening(hooks), self._shifted(adapter.vectors):
            yield

    def _hook(self, site: Site, update: Update) -> Hook:
        if isinstance(update, LowRank):
            return _adding(update, self.device)
        module = self.module(site)
        if module is None:
            raise KeyError(f"{site} is no module of this model")
        return _adding_dense(update.dense(cast("Tensor", module.weight).detach()))

    @contextlib.contextmanager
    def _shifted(self, vectors: Mapping[Site, Tensor]) -> Iterator[None]:
        """Adds to biases and norms for the length of a `with` block, and gives back the very numbers they had."""
        kept: list[tuple[Tensor, Tensor]] = []
        try:
            for site, vector in vectors.items():
                owner, _, leaf = site.path.rpartition(".")
                module = self.module(Site(site.component, owner))
                parameter = getattr(module, leaf, None)
                if parameter is None:
                    raise KeyError(f"{site} is no parameter of this model")
                kept.append((parameter.data, parameter.data.clone()))
                parameter.data += vector.to(parameter.data)
            yield
        finally:
            for data, before in reversed(kept):
                data.copy_(before)

    @contextlib.contextmanager
    def listening(self, hooks: Mapping[Site, Hook]) -> Iterator[None]:
        """Calls each hook(module, inputs, output) when its site's module has run, for the length of a `with` block."""
        with contextlib.ExitStack() as stack:
            for site, hook in hooks.items():
                module = self.module(site)
                if module is None:
                    raise KeyError(f"{site} is no module of this model")
                stack.callback(module.register_forward_hook(hook).remove)
            yield


def _adding(update: LowRank, device: torch.device) -> Hook:
    """Returns a hook that adds scale·up·down·x to a module's output, factored."""
    up = (update.up * update.scale).to(device)
    down = update.down.to(device)

    def linear(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + (inputs[0] @ down.T) @ up.T

    def convolution(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        base = cast("nn.Conv2d", module)
        kernel = down.view(down.shape[0], -1, *base.kernel_size)
        thin = nn.functional.conv2d(inputs[0], kernel, stride=base.stride, padding=base.padding, dilation=base.dilation)
        return output + nn.functional.conv2d(thin, up[:, :, None, None])

    return linear if update.kernel is None else convolution


def _adding_dense(change: Tensor) -> Hook:
    """Returns a hook that adds change·x to a module's output."""

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if change.dim() == 2:
            return output + nn.functional.linear(inputs[0], change)
        base = cast("nn.Conv2d", module)
        moved = nn.functional.conv2d(
            inputs[0], change, stride=base.stride, padding=base.padding, dilation=base.dilation
        )
        return output + moved

    return add


def load_diffusion_model(folder: Path, *, device: str = "cpu") -> DiffusionModel:
    """Opens a diffusers folder (unet, text_encoder, tokenizer, scheduler, vae where there is one), safetensors only.

    Nothing is fetched. Raises Stop where the folder is not such a model.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # one bar per part and load would tear up the run's own

    weights: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "torch_dtype": torch.float32}
    try:
        unet: Any = UNet2DConditionModel.from_pretrained(folder / "unet", **weights)
        text_encoder: Any = CLIPTextModel.from_pretrained(
            folder / "text_encoder", local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
        vae: Any = AutoencoderKL.from_pretrained(folder / "vae", **weights) if (folder / "vae").is_dir() else None
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
    except (OSError, ValueError) as error:
        raise Stop(
            f"{folder} cannot be opened as a diffusion model: {error}. Expected a diffusers folder with unet/, "
            "text_encoder/, tokenizer/ and scheduler/, weights as safetensors."
        ) from error
    unet, text_encoder, vae = (part.eval().to(device) if part else None for part in (unet, text_encoder, vae))
    return DiffusionModel(Parts(unet, text_encoder, tokenizer, scheduler, vae))
