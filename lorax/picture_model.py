"""A loaded base that draws pictures from noise: what U-Nets and diffusion transformers have in common.

A kind of pipeline says how text is encoded, what is predicted, how noise is added and taken away, and how latents
become pictures; the rest is here.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, TypeVar, cast

import torch
from torch import Tensor, nn

from lorax.adapter import Site, Update
from lorax.errors import Stop
from lorax.geometry import SQUARED, Geometry
from lorax.latent_space import difference
from lorax.probe import Probe, ProbeSettings, slices
from lorax.running_model import Hook, RunningModel

States = TypeVar("States")
"""What a kind of model makes of prompts, a row for each of them."""

POSITIONS = 40 * 64 * 64
"""Most places of latents that a denoiser is given at once where no gradients are asked for: forty pictures of 512 x 512
pixels, ten of 1024 x 1024."""

_SMALL = 16 * 16
"""Positions of a latent of which many can be run with gradients."""


@dataclass(frozen=True, slots=True, eq=False)
class LatentProbe:
    """Noisy latents (n, c, ...), their timesteps (n,) and prompts (n). Rows with equal `group` show one image.

    guidance: what a model that was distilled with guidance is told of its strength; the others take no notice.
    """

    latents: Tensor
    timesteps: Tensor
    prompts: tuple[str, ...]
    group: Tensor
    guidance: float = 1.0

    def batches(self, size: int) -> list[slice]:
        """Returns slices that cover the probe, `size` rows each."""
        return slices(len(self.prompts), size)


class PictureModel(RunningModel, Generic[States]):
    """A denoiser with its text encoders, tokenizers and scheduler on one device, never trained here.

    scheduler: the diffusers scheduler of the base; vae: None where pictures are not latents; pictures: how many
    `to_images` gives for each latent.
    """

    kind: ClassVar[str] = "diffusion"
    geometry: ClassVar[Geometry] = SQUARED
    pictures: ClassVar[int] = 1
    scheduler: Any
    vae: Any

    @property
    @abstractmethod
    def latent_shape(self) -> tuple[int, ...]:
        """Channels, frames where there are several, height and width of one latent."""

    def rows_with_gradients(self, wanted: int) -> int:
        """Returns as many rows as fill the memory that so many pictures of 128 x 128 pixels take; at least one."""
        return max(1, min(wanted, wanted * _SMALL // math.prod(self.latent_shape[1:])))

    @property
    @abstractmethod
    def prediction(self) -> str:
        """Names what is predicted: epsilon, v_prediction, sample, flow."""

    @property
    @abstractmethod
    def signal(self) -> Tensor:
        """Gives the share of the picture in the variance of a noisy one at each timestep, (timesteps,)."""

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> States:
        """Returns what the denoiser is told of prompts, a row each. Each different prompt is encoded once."""

    @abstractmethod
    def predict(self, latents: Tensor, timesteps: Tensor, *, states: States, guidance: float = 1.0) -> Tensor:
        """Returns the denoiser's output, float32 and of the shape of the noisy latents, at timesteps (n,)."""

    @abstractmethod
    def add_noise(self, latents: Tensor, noise: Tensor, *, timesteps: Tensor) -> Tensor:
        """Returns latents noised to the given timesteps (n,), by the model's own schedule."""

    @abstractmethod
    def sampler(self, steps: int) -> Any:  # noqa: ANN401 - a scheduler of diffusers
        """Returns a deterministic scheduler of diffusers for this base, its timesteps set."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Returns pictures (pictures·n, channels, h, w), -1 to 1, of clean latents; those of one latent in a row."""

    def run(self, probe: Probe, rows: slice) -> Tensor:
        """Returns the denoiser's output (n, features), float32, for noisy latents."""
        shown = cast("LatentProbe", probe)
        every = range(len(shown.prompts))[rows]
        if torch.is_grad_enabled() or len(every) <= (most := self._at_once()):
            return self._outputs(shown, rows)
        first = every.start
        parts = [slice(first + part.start, first + part.stop) for part in slices(len(every), most)]
        return torch.cat([self._outputs(shown, part) for part in parts])

    def _outputs(self, shown: LatentProbe, rows: slice) -> Tensor:
        states = self.encode(shown.prompts[rows])
        output = self.predict(shown.latents[rows], shown.timesteps[rows], states=states, guidance=shown.guidance)
        return output.flatten(1).float()

    def _at_once(self) -> int:
        """How many latents the denoiser is given at once."""
        return max(1, POSITIONS // math.prod(self.latent_shape[1:]))

    def samples(
        self, prompts: Sequence[str], *, settings: ProbeSettings, seed: int, rows: slice = slice(None)
    ) -> Tensor:
        """Returns clean latents (n, c, ...) drawn for prompts[rows]; equal rows see equal noise in every model."""
        if not any(prompts):
            raise Stop(
                'the probe has no prompts; a diffusion model draws for some: prompts = ["a photograph of a harbour"]'
            )
        noise = noise_for(self, count=len(prompts), seed=seed)[rows]
        if not len(noise):
            return noise.to(self.device)
        return self.sample(prompts[rows], noise, steps=settings.steps, guidance=settings.guidance)

    def given(self, settings: ProbeSettings) -> Tensor | None:
        """Returns None: a probe of a diffusion model brings no pictures."""
        del settings
        return None

    def look_at(self, samples: Tensor, *, prompts: Sequence[str], settings: ProbeSettings) -> LatentProbe:
        """Returns the probe that shows clean latents (n, c, ...) under each of the settings' noise levels."""
        levels = len(settings.timesteps)
        latents = samples.to(self.device).repeat_interleave(levels, dim=0)
        timesteps = torch.tensor(settings.timesteps, device=latents.device).repeat(len(samples))
        noise = noise_for(self, count=len(latents), seed=settings.seed + 1).to(latents.device)
        return LatentProbe(
            latents=self.add_noise(latents, noise, timesteps=timesteps),
            timesteps=timesteps,
            prompts=tuple(prompt for prompt in prompts for _ in range(levels)),
            group=torch.arange(len(samples)).repeat_interleave(levels),
            guidance=settings.guidance,
        )

    def shown_anew(self, settings: ProbeSettings, *, generator: torch.Generator) -> ProbeSettings:
        """Returns settings with other noise and as many levels, one in each of so many parts of the schedule."""
        parts = len(settings.timesteps)
        drawn = (torch.arange(parts) + torch.rand(parts, generator=generator)) / parts
        levels = tuple((drawn * self.scheduler.config.num_train_timesteps).int().tolist())
        seed = int(torch.randint(1 << 31, (), generator=generator))
        return replace(settings, timesteps=levels, seed=seed)

    def pulls(
        self, output: Tensor, probe: Probe, rows: slice, *, count: int, generator: torch.Generator
    ) -> list[Tensor]:
        """Returns random directions in the space of pictures, standard normal."""
        del probe, rows
        return [torch.randn(output.shape, generator=generator).to(output.device) for _ in range(count)]

    def require_comparable(self, other: RunningModel) -> None:
        """Raises Stop for models of another kind, with other latents or schedules, or that predict another thing."""
        if not isinstance(other, PictureModel):
            raise Stop(f"a diffusion model and a {other.kind} model cannot be run on the same inputs")
        if self.latent_shape != other.latent_shape:
            seen = " and ".join("x".join(map(str, model.latent_shape)) for model in (self, other))
            raise Stop(f"the two bases have latents of different shape ({seen}), so they cannot see the same picture")
        if reason := difference(self, other):
            raise Stop(
                f"the outputs of the two bases cannot be compared: {reason}. Choose a method that needs weights only"
            )

    def branches(self, guidance: float) -> int:
        """Counts how often a step runs the denoiser: twice where the difference to no prompt is scaled up, or once."""
        return 1 if guidance == 1.0 else 2

    def encode_both(self, prompts: Sequence[str]) -> States:
        """Returns what the denoiser is told of prompts, and after them as often what it is told where there is none."""
        return self.encode([*prompts, *[""] * len(prompts)])

    @torch.no_grad()
    def sample(self, prompts: Sequence[str], noise: Tensor, *, steps: int, guidance: float) -> Tensor:
        """Returns clean latents (n, c, ...) drawn from given noise; guidance 1 runs one branch only."""
        size = max(1, self._at_once() // self.branches(guidance))
        parts = slices(len(noise), size) or [slice(0, 0)]
        drawn = [self._drawn(prompts[part], noise[part], steps=steps, guidance=guidance) for part in parts]
        return torch.cat(drawn)

    def _drawn(self, prompts: Sequence[str], noise: Tensor, *, steps: int, guidance: float) -> Tensor:
        scheduler = self.sampler(steps)
        guided = self.branches(guidance) == 2
        states = self.encode_both(prompts) if guided else self.encode(list(prompts))
        latents = noise.to(self.device)
        for step in scheduler.timesteps:
            batch = torch.cat([latents, latents]) if guided else latents
            output = self.predict(batch, step.expand(len(batch)).to(self.device), states=states, guidance=guidance)
            if guided:
                wanted, plain = output.chunk(2)
                output = plain + guidance * (wanted - plain)
            latents = scheduler.step(output, step, latents).prev_sample
        return latents

    @torch.no_grad()
    def to_images(self, latents: Tensor) -> Tensor:
        """Returns pixels (pictures·n, h, w, channels) as uint8, on the CPU."""
        # One by one: decoders take much more memory than what they decode.
        parts = torch.split(latents.to(self.device), 1 if self.vae is not None else max(1, len(latents)))
        decoded = torch.cat([self.decode(part) for part in parts])
        pixels = ((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).cpu()

    def hook_of(self, site: Site, update: Update) -> Hook:
        """Adds an update in float32, whatever the element type of the weights; over frames too, where a module goes."""
        module = self.module(site)
        add = _adding_over_frames(update, module) if isinstance(module, nn.Conv3d) else super().hook_of(site, update)

        def added(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            found = add(module, (inputs[0].float(),), output.float())
            return found if found is None else found.to(output.dtype)

        return added


def _adding_over_frames(update: Update, module: nn.Conv3d) -> Hook:
    """Returns a hook that adds what an update makes of a module's input; dense: such modules are few and small."""
    change = update.dense(module.weight.detach().float()).to(module.weight.device)

    def add(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        moved = nn.functional.conv3d(inputs[0], change, None, module.stride, module.padding, module.dilation)
        return output + moved

    return add


def noise_for(model: PictureModel[Any], *, count: int, seed: int) -> Tensor:
    """Draws standard normal latents (count, c, ...) on the CPU, so that every device sees the same ones."""
    return torch.randn((count, *model.latent_shape), generator=torch.Generator().manual_seed(seed))
